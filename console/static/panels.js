// Parts of a page that load by themselves, and again after a while. The server writes them as escaped HTML.
import { request } from "./requests.js";
import { localise } from "./times.js";

const RETRY_MS = 5_000, FIRST_RETRY_MS = 700, FIRST_TRIES_MS = 6_000, SLOW_MS = 3_000;

export function startPanels(root = document) {
  for (const panel of root.querySelectorAll("[data-panel]")) load(panel);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    for (const panel of document.querySelectorAll("[data-panel][data-waits]")) load(panel);
  });
}

// Panels within an element with data-in-turn share a bound of the API: one is loaded after the other.
export function load(panel) {
  const group = panel.closest("[data-in-turn]");
  if (!group) return loadNow(panel);
  group.turn = (group.turn ?? Promise.resolve()).then(() => loadNow(panel));
  return group.turn;
}

async function loadNow(panel) {
  delete panel.dataset.waits;
  const body = panel.querySelector("[data-body]") ?? panel;
  const status = panel.querySelector("[data-status]");
  const every = Number(panel.dataset.every ?? 0);
  let next = every;
  panel.firstTried ??= Date.now();
  const slow = setTimeout(() => say(status, "Still waiting for the API…", true), SLOW_MS);
  try {
    const answer = await request(panel.dataset.panel);
    const text = await answer.text();
    clearTimeout(slow);
    if (answer.status === 503 && panel.lastText === undefined && Date.now() - panel.firstTried < FIRST_TRIES_MS) {
      setTimeout(() => again(panel), FIRST_RETRY_MS);  // many panels of one page may exceed a bound of the API
      return;
    }
    if (panel.lastText !== text) replace(body, text);
    panel.lastText = text;
    say(status, answer.ok && every ? `as of ${new Date().toLocaleTimeString()}` : "", !answer.ok);
    if (answer.status >= 500) next = next || RETRY_MS;
  } catch {
    clearTimeout(slow);
    next = next || RETRY_MS;
    say(status, "The console does not answer; trying again", true);
  }
  panel.setAttribute("aria-busy", "false");
  if (next) setTimeout(() => again(panel), next);
}

function again(panel) {
  if (!panel.isConnected) return;
  if (document.hidden) panel.dataset.waits = "";
  else load(panel);
}

function say(status, text, isBad) {
  if (!status) return;
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

// Keeps the focus on the element with the same id or address, and details open.
function replace(body, text) {
  const active = body.contains(document.activeElement) ? document.activeElement : null;
  const focused = active && (active.id ? `#${CSS.escape(active.id)}` : active.getAttribute("href") ? `[href="${CSS.escape(active.getAttribute("href"))}"]` : null);
  const open = [...body.querySelectorAll("details[open][id]")].map((each) => each.id);
  body.innerHTML = text;
  localise(body);
  for (const id of open) body.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  if (focused) body.querySelector(focused)?.focus({ preventScroll: true });
  for (const panel of body.querySelectorAll("[data-panel]")) load(panel);
}
