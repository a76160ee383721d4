// Live events: asks for what is new, and shows the newest rows.
import { request } from "./requests.js";
import { localise } from "./times.js";

const MAX_ROWS = 300, RETRY_MS = 3_000, SLOW_MS = 3_000;

export function startLive() {
  const screen = document.querySelector("[data-live]");
  if (!screen) return;
  const rows = screen.querySelector("tbody"), counts = screen.querySelector("[data-counts]");
  const status = screen.querySelector("[data-live-status]"), button = screen.querySelector("[data-pause]");
  let cursor = "", timer = 0, isPaused = false, generation = 0;

  async function look() {
    const mine = ++generation;
    const slow = setTimeout(() => { if (mine === generation) status.textContent = "Still waiting for the API…"; }, SLOW_MS);
    let wait = Number(screen.dataset.every);
    try {
      const url = new URL(screen.dataset.live, location.href);
      if (cursor) url.searchParams.set("cursor", cursor);
      const answer = await request(url);
      const found = await answer.json();
      if (mine !== generation) return;
      if (!answer.ok) {
        status.textContent = found.problem;
        wait = Math.max(wait, RETRY_MS);
      } else {
        cursor = found.cursor;
        add(found.rows);
        screen.querySelector("[data-none]").hidden = rows.rows.length > 0;
        counts.innerHTML = found.summary;
        status.textContent = found.status;
      }
    } catch {
      if (mine !== generation) return;
      status.textContent = "The console does not answer; trying again.";
      wait = RETRY_MS;
    }
    clearTimeout(slow);
    if (!isPaused) timer = setTimeout(next, wait);
  }

  function next() {
    if (document.hidden) document.addEventListener("visibilitychange", next, { once: true });
    else look();
  }

  function add(text) {
    if (!text) return;
    const part = document.createElement("template");
    part.innerHTML = text;
    localise(part.content);
    rows.prepend(part.content);
    while (rows.rows.length > MAX_ROWS) rows.lastElementChild.remove();
    screen.querySelector("[data-rows]").hidden = false;
  }

  function pause() {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    button.textContent = isPaused ? "Resume" : "Pause";
    clearTimeout(timer);
    if (isPaused) { generation++; status.textContent = "Paused."; } else look();
  }

  button.addEventListener("click", pause);
  document.addEventListener("keydown", (event) => {
    if (event.key === "p" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, select, textarea")) pause();
  });
  look();
}
