/*! twotower: sends what people do on a web page to a twotower server, and asks it for recommendations. Apache-2.0.

  const shop = twotower({ url: "https://recommend.shop.example" });
  shop.track("view", "item-1");

Every function is described in docs/clients.md. It works as a plain script (`twotower` is then global) and by `import twotower from
"./twotower.mjs"`. */
(() => {
  "use strict";
  const NAME = "twotower"; // of the only entry in localStorage
  const IDLE_MS = 1800e3; // after so long without an event a new session begins
  const DAY_MS = 864e5; // for so long an event with an item counts as the doing of the answer that showed it
  const MOST_QUEUED = 1000; // older events are forgotten while the server cannot be reached
  const MOST_SHOWN = 200; // items whose answers are remembered
  const MOST_SENT = 20; // events of one request
  const LONGEST_MS = 6e4; // between two attempts
  const KEPT_ALIVE = 6e4; // bytes: browsers finish no larger request of a page that is gone

  const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const isRefused = () => navigator.doNotTrack === "1" || navigator.globalPrivacyControl === true;

  const twotower = ({ url, key, user, consent = true, waitMs = 1000 }) => {
    const base = url.replace(/\/+$/, "");
    const isForeign = new URL(base, location.href).origin !== location.origin;
    const headers = { "content-type": "application/json", ...(key && { authorization: "Bearer " + key }) };
    let memory = null; // what localStorage did not take, because it is blocked or full
    let queue = [];
    let timer = 0;
    let failures = 0;
    let isSending = false;

    const isAllowed = () => consent && !isRefused();
    const load = () => {
      try {
        return memory || JSON.parse(localStorage.getItem(NAME)) || {};
      } catch {
        return {}; // blocked, or written by something else
      }
    };
    const save = (state) => {
      try {
        localStorage.setItem(NAME, JSON.stringify(state));
        memory = null;
      } catch {
        memory = state;
      }
    };
    const forget = () => {
      queue = [];
      memory = null;
      try {
        localStorage.removeItem(NAME);
      } catch {} // blocked: nothing is there
    };
    const touch = (now) => {
      const state = load();
      state.user ||= newId();
      if (!(now - state.last < IDLE_MS)) state.session = newId();
      state.last = now;
      save(state);
      return state;
    };
    const userOf = (state) => (typeof user === "function" ? user() : user) || state.user;
    const post = (path, body) =>
      fetch(base + path, { method: "POST", headers, body, credentials: "omit", keepalive: new Blob([body]).size < KEPT_ALIVE });
    const bodyOf = (events) => JSON.stringify({ events });
    const schedule = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(send, ms);
    };

    const send = async () => {
      if (isSending || !queue.length) return;
      const batch = queue.slice(0, MOST_SENT);
      let wait = Math.random() * Math.min(LONGEST_MS, waitMs * 2 ** failures++);
      isSending = true;
      try {
        const answer = await post("/v1/events", bodyOf(batch));
        wait += 1000 * (Number(answer.headers.get("retry-after")) || 0);
        const { error, rejected } = await answer.json();
        const told = error?.message ?? rejected;
        if (!told) throw new Error(answer.url + " gave no answer of twotower");
        if (answer.status < 500 && answer.status !== 429 && answer.status !== 408) {
          queue = queue.filter((event) => !batch.includes(event));
          failures = wait = 0;
        }
        if (told.length) console.warn(NAME, told);
      } catch (failure) {
        console.warn(NAME, failure);
      }
      isSending = false;
      if (queue.length) schedule(wait);
    };

    // The page may come back, so nothing leaves the queue: what arrives twice is stored once.
    const leave = () => {
      for (let first = 0; first < queue.length; first += MOST_SENT) {
        const body = bodyOf(queue.slice(first, first + MOST_SENT));
        if (isForeign && !key) navigator.sendBeacon(base + "/v1/events", body);
        else post("/v1/events", body).catch(() => {});
      }
    };
    addEventListener("pagehide", leave);
    addEventListener("visibilitychange", () => document.visibilityState === "hidden" && leave());

    const shown = (answer, first = 1) => {
      if (!isAllowed()) return;
      const state = load();
      const now = Date.now();
      const added = answer.items.map(({ item_id }, index) => [item_id, [answer.recommendation_id, first + index, now]]);
      const ids = new Set(added.map(([id]) => id));
      const kept = (state.shown || []).filter(([id]) => !ids.has(id));
      save({ ...state, shown: [...kept, ...added].slice(-MOST_SHOWN) });
    };
    const track = (event_type, item_id, more) => {
      if (!isAllowed()) return null;
      const now = Date.now();
      const state = touch(now);
      const event = { event_id: newId(), event_type, timestamp: now, user_id: userOf(state), session_id: state.session };
      if (item_id != null) {
        event.item_id = String(item_id);
        const [, answer] = (state.shown || []).find(([id]) => id === event.item_id) || [];
        if (answer && now - answer[2] < DAY_MS) [event.recommendation_id, event.position] = answer;
      }
      queue = [...queue, { ...event, ...more }].slice(-MOST_QUEUED);
      if (queue.length >= MOST_SENT && !failures) send();
      else if (queue.length === 1) schedule(waitMs);
      return event.event_id;
    };
    const recommend = async (request, first) => {
      const who = isAllowed() ? { user_id: userOf(touch(Date.now())) } : {};
      const answer = await post("/v1/recommend", JSON.stringify({ ...who, ...request }));
      if (!answer.ok) {
        const { error } = await answer.json().catch(() => ({}));
        throw new Error(error?.message ?? answer.url + " answered with " + answer.status);
      }
      const body = await answer.json();
      shown(body, first);
      return body;
    };

    return {
      track,
      shown,
      recommend,
      search: (query) => track("search", null, { query }),
      flush: send,
      consent(given) {
        consent = given;
        if (!isAllowed()) forget();
      },
    };
  };
  globalThis.twotower = twotower;
})();
