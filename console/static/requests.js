// Requests to the console. A session that has ended leads to the page for signing in.
export async function request(url, options = {}) {
  const answer = await fetch(url, { credentials: "same-origin", ...options });
  if (answer.status === 401) {
    const back = encodeURIComponent(location.pathname + location.search);
    const target = answer.headers.get("X-Sign-In") ?? "/sign-in";
    location.assign(`${target}${target.includes("?") ? "&" : "?"}back=${back}`);
    return new Promise(() => {});  // the page is being left
  }
  return answer;
}
