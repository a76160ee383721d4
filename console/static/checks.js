// The validator's answer about a correction, as it is typed.
import { request } from "./requests.js";

const PAUSE_MS = 250;

export function startChecks() {
  for (const form of document.querySelectorAll("form[data-check]")) watch(form);
}

function watch(form) {
  const answer = form.querySelector("[data-answer]");
  let timer = 0, latest = 0;

  async function check() {
    const mine = ++latest;
    const body = new URLSearchParams(new FormData(form));
    try {
      const found = await request(form.dataset.check, { method: "POST", body });
      const text = await found.text();
      if (mine === latest) answer.innerHTML = text;
    } catch {
      if (mine === latest) answer.textContent = "The console does not answer.";
    }
  }

  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(check, PAUSE_MS); });
  if (form.elements.patch.value) check();
}
