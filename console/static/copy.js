// Buttons that copy a text to the clipboard.
export function startCopying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied: the browser refused";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}
