// Times in the viewer's zone; the server writes them in UTC.
const second = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const clockWithSeconds = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const moment = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const month = new Intl.DateTimeFormat(undefined, { month: "short", year: "numeric" });
const MINUTE = 60_000, DAY = 86_400_000;

export const clockOf = (moment) => clockWithSeconds.format(moment);

export function localise(root) {
  for (const each of root.querySelectorAll("[data-zone]")) each.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const each of root.querySelectorAll("time[data-local]")) {
    const moment = new Date(each.dateTime), isToday = moment.toDateString() === new Date().toDateString();
    each.textContent = (each.dataset.local === "clock" && isToday ? clockWithSeconds : second).format(moment);
    delete each.dataset.local;
  }
  for (const each of root.querySelectorAll("time[data-title-local]")) {
    each.title = `${second.format(new Date(each.dateTime))} (${each.title})`;
    delete each.dataset.titleLocal;
  }
  for (const each of root.querySelectorAll("[data-tick]")) {
    const span = Number(each.dataset.span);
    const format = span <= 0 ? moment : span <= 10 * MINUTE ? clockWithSeconds : span <= 2 * DAY ? clock : span <= 400 * DAY ? day : month;
    each.firstChild.data = format.format(new Date(Number(each.dataset.tick)));
    delete each.dataset.tick;
  }
}
