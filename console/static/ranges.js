// A range that begins at a given time has no length, so typing one takes back the choice of a length.
export function startRanges() {
  const since = document.querySelector("input#since"), length = document.querySelector("select#hours");
  if (!since || !length) return;
  since.addEventListener("input", () => { if (since.value) length.value = ""; });
}
