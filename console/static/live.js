// Live events: asks for what is new, shows the newest rows, and counts all events since the page was opened.
import { request } from "./requests.js";
import { clockOf, localise } from "./times.js";

const MAX_ROWS = 300, RETRY_MS = 3_000, SLOW_MS = 3_000;

const grouped = (number) => number.toLocaleString("en");
const sum = (counts) => Object.values(counts).reduce((left, right) => left + right, 0);

export function startLive() {
  const screen = document.querySelector("[data-live]");
  if (!screen) return;
  const rows = screen.querySelector("tbody"), totals = {};
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
        if (cursor) count(found);
        else open(found);
        cursor = found.cursor;
        add(found.rows);
        screen.querySelector("[data-none]").hidden = rows.rows.length > 0;
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

  // Events of the first look happened before the page was opened: they are listed, and not in the totals.
  function open(found) {
    const now = new Date(), before = sum(found.counts), opened = screen.querySelector("[data-opened]");
    opened.dateTime = now.toISOString();
    opened.textContent = clockOf(now);
    if (before) screen.querySelector("[data-before]").textContent = `, without ${grouped(before)} of the minutes before`;
    for (const each of screen.querySelectorAll("[data-since], [data-counts]")) each.hidden = false;
  }

  function count(found) {
    for (const [name, events] of Object.entries({ ...found.counts, skipped: found.skipped })) {
      totals[name] = (totals[name] ?? 0) + events;
      screen.querySelector(`[data-count="${name}"]`).textContent = grouped(totals[name]);
    }
    screen.querySelector("[data-skipped]").hidden = !totals.skipped;
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
