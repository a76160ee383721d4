// Requests to the console. A session that has ended leads to the page for signing in.
const TIMEOUT_MS = 120_000;  // the console itself gives up earlier: this ends a request whose connection hangs

export async function request(url, options = {}) {
  const answer = await fetch(url, { credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  if (answer.status === 401) {
    const back = encodeURIComponent(location.pathname + location.search);
    const target = answer.headers.get("X-Sign-In") ?? "/sign-in";
    location.assign(`${target}${target.includes("?") ? "&" : "?"}back=${back}`);
    return new Promise(() => {});  // the page is being left
  }
  return answer;
}
