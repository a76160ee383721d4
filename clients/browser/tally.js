// Impressions, clicks and dwell of elements with data-tally-id and data-tally-position. Usage: docs/api.md
(() => {
  const MAX_EVENTS = 1000, MAX_LOT = 20, MAX_WAIT = 60000;
  const MAX_LOT_BYTES = 60000; // browsers refuse beacons and keepalive requests over 64 KiB
  const owners = new WeakMap(); // element -> the instance that observed it last, whose search showed it
  let latest; // the instance of elements that no instance observes

  // Storage may be blocked, full, or hold values of the page's own. No error of it may reach the page.
  const storage = (use) => { try { return use(localStorage); } catch { return undefined; } };
  const takeSaved = (prefix) => storage((store) => {
    const texts = [];
    for (const key of Object.keys(store).filter((each) => each.startsWith(prefix))) {
      try { texts.push(...JSON.parse(store.getItem(key)).filter((each) => typeof each === "string")); } catch {}
      store.removeItem(key);
    }
    return texts;
  }) || [];

  // The first events of a queue that one request can carry; an event over the limit goes alone.
  const lotOf = (texts) => {
    let bytes = 2, count = 0;
    for (const text of texts.slice(0, MAX_LOT)) {
      const size = new Blob([text]).size + 1;
      if (count && bytes + size > MAX_LOT_BYTES) break;
      bytes += size;
      count++;
    }
    return { count, body: `[${texts.slice(0, count)}]`, fits: bytes <= MAX_LOT_BYTES };
  };

  window.Tally = ({ endpoint, token, context = {}, every = 2000, onError = (text) => console.warn(`tally: ${text}`) }) => {
    const base = `${endpoint.replace(/\/+$/, "")}/v1/retrievers/interactions/beacon`;
    const prefix = `tally:${base}:`;
    const own = prefix + Date.now() + Math.random(); // one key for each page, so that tabs do not overwrite each other
    const queue = takeSaved(prefix).slice(-MAX_EVENTS); // JSON texts that earlier pages could not send
    const seen = new Map(); // element -> { ms, since, done }: how long it was visible
    let sending = [], wait = every, timer, signed = typeof token === "string" ? token : "", told;

    const url = () => `${base}?token=${encodeURIComponent(signed)}`;
    const tell = (text) => { if (text !== told) onError(told = text); };
    const drop = (count, text) => { api.dropped += count; tell(text); };
    const later = (ms) => { timer ||= setTimeout(flush, ms); };

    const track = (type, fields) => {
      if (queue.length >= MAX_EVENTS) return drop(1, `${MAX_EVENTS} events wait already`);
      try {
        queue.push(JSON.stringify({ ...context, interaction_type: [type], position: 0, ...fields }));
      } catch (error) {
        return drop(1, `an event is not JSON: ${error}`);
      }
      later(wait);
    };
    const about = (type, { dataset: d }, more) =>
      track(type, { feature_id: d.tallyId, position: +d.tallyPosition || 0, ...more });

    const answered = async (response, count) => {
      if (response.status === 401) { // expired: keep the events for another token
        tell("the token has expired or is not known");
        return false;
      }
      if (response.status >= 500 || response.status === 429 || response.status === 408) return false;
      if (!response.ok) drop(count, `events were refused: ${response.status}`);
      else if (response.status === 200) drop((await response.json()).failed, "some events were not valid");
      return true;
    };

    const flush = async () => {
      timer = clearTimeout(timer);
      if (sending.length || !queue.length) return;
      const { count, body, fits } = lotOf(queue), isFirstTry = wait === every;
      sending = queue.splice(0, count);
      let done = false;
      try {
        if (typeof token === "function" && (!signed || !isFirstTry)) signed = await token();
        const keepalive = fits && isFirstTry; // requests that outlive the page share a small quota
        done = await answered(await fetch(url(), { method: "POST", body, keepalive }), count);
      } catch (error) {
        tell(`cannot reach ${base}: ${error}`);
      }
      if (!done) queue.unshift(...sending);
      sending = [];
      wait = done ? every : Math.min(wait * 2, MAX_WAIT);
      if (queue.length) later(done ? 0 : wait);
    };

    // Hand events to the browser, which sends them even after the page is gone but never reports success. Not while
    // requests fail. Save the rest.
    const hand = (inFlight) => {
      const texts = [...takeSaved(own), ...inFlight, ...queue.splice(0)];
      while (texts.length && signed && wait === every) {
        const { count, body, fits } = lotOf(texts);
        if (!fits || !navigator.sendBeacon(url(), body)) break;
        texts.splice(0, count);
      }
      if (texts.length) storage((store) => store.setItem(own, JSON.stringify(texts)));
    };
    const pause = (at) => {
      at.ms += at.since && performance.now() - at.since;
      at.since = 0;
    };
    const resume = () => {
      for (const at of seen.values()) at.since = at.visible && performance.now();
      queue.push(...takeSaved(own));
      if (queue.length) later(0);
    };
    const leave = () => {
      seen.forEach(pause);
      for (const [el, at] of seen) {
        if (at.ms >= 1000) about("dwell", el, { metadata: { dwell_ms: Math.round(at.ms) } });
        at.ms = 0;
      }
      // With an execution, an event that is sent twice is stored once.
      hand(sending.filter((text) => JSON.parse(text).execution_id));
    };

    const watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const at = seen.get(target);
        if (isIntersecting && !at.done) about("impression", target);
        pause(at);
        at.visible = isIntersecting;
        at.since = isIntersecting && !document.hidden && performance.now();
        at.done ||= isIntersecting;
      }
    }, { threshold: 0.5 });

    addEventListener("pagehide", leave);
    addEventListener("pageshow", ({ persisted }) => persisted && resume());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) return resume();
      seen.forEach(pause);
      hand([]); // a phone may end a hidden page without another event
    });
    addEventListener("click", ({ target }) => {
      const el = target instanceof Element && target.closest("[data-tally-id]");
      if (el && (owners.get(el) || latest) === api) about("click", el);
    }, true);
    if (queue.length) later(0);
    const api = {
      track, flush, dropped: 0,
      observe: (elements) => {
        for (const el of elements) {
          if (owners.get(el) === api) continue;
          owners.get(el)?.unobserve([el]);
          owners.set(el, api);
          if (!seen.has(el)) seen.set(el, { ms: 0, since: 0 });
          watcher.observe(el);
        }
      },
      unobserve: (elements) => { // dwell so far is still sent when the page is left
        for (const el of elements) {
          const at = seen.get(el);
          if (!at) continue;
          pause(at);
          at.visible = false;
          watcher.unobserve(el);
          if (owners.get(el) === api) owners.delete(el);
        }
      },
    };
    return latest = api;
  };
})();
