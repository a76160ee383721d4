// Impressions, clicks and dwell of elements with data-tally-id and data-tally-position. Use: docs/api.md
window.Tally = ({ endpoint, token, context = {}, every = 2000 }) => {
  const url = `${endpoint}/v1/retrievers/interactions/beacon?token=${encodeURIComponent(token)}`;
  const key = "tally", MOST = 1000, LOT = 20;
  const queue = JSON.parse(localStorage.getItem(key) || "[]"); // what could not be sent before
  localStorage.removeItem(key);
  const seen = new Map(); // element -> how long it was visible
  let sending = [], wait = every, timer;

  const track = (type, fields) => {
    if (queue.length >= MOST) return api.dropped++;
    queue.push({ ...context, interaction_type: [type], position: 0, ...fields });
    timer ||= setTimeout(flush, wait);
  };
  const about = (type, { dataset: d }, more) =>
    track(type, { feature_id: d.tallyId, position: +d.tallyPosition || 0, ...more });

  const flush = async () => {
    timer = clearTimeout(timer);
    if (sending.length || !queue.length) return;
    sending = queue.splice(0, LOT);
    let again = true;
    try {
      const { ok, status } = await fetch(url, { method: "POST", body: JSON.stringify(sending), keepalive: true });
      again = status >= 500 || status == 429 || status == 408;
      if (!again && !ok) api.dropped += sending.length; // it will never be taken
    } catch {}
    if (again) queue.unshift(...sending);
    sending = [];
    wait = again ? Math.min(wait * 2, 60000) : every;
    if (queue.length) timer ||= setTimeout(flush, again ? wait : 0);
  };

  const leave = () => {
    for (const [el, at] of seen) {
      const now = performance.now(), ms = Math.round(at.ms + (at.since && now - at.since));
      at.ms = 0;
      at.since &&= now;
      if (ms >= 1000) about("dwell", el, { metadata: { dwell_ms: ms } });
    }
    // With an execution, what is sent twice is stored once.
    const left = [...sending.filter((e) => e.execution_id), ...queue.splice(0)];
    while (left.length && navigator.sendBeacon(url, JSON.stringify(left.slice(0, LOT)))) left.splice(0, LOT);
    if (left.length) localStorage.setItem(key, JSON.stringify(left));
  };

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const at = seen.get(target), now = performance.now();
      if (isIntersecting && !at.done) about("impression", target);
      if (at.since) at.ms += now - at.since;
      at.since = isIntersecting && now;
      at.done ||= isIntersecting;
    }
  }, { threshold: 0.5 });

  addEventListener("pagehide", leave);
  addEventListener("click", ({ target }) => {
    const el = target.closest("[data-tally-id]");
    if (el) about("click", el);
  }, true);
  if (queue.length) timer = setTimeout(flush);
  const api = {
    track, flush, dropped: 0,
    observe: (elements) => {
      for (const el of elements) if (!seen.has(el)) seen.set(el, { ms: 0, since: 0 }), watcher.observe(el);
    },
  };
  return api;
};
