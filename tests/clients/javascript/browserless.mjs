// Runs the script in Node, with as much of a browser as it touches. Usage: node browserless.mjs SCENARIO SERVER USER
const [scenario, server, user] = process.argv.slice(2);
const stored = new Map();
const listeners = {};
const warnings = [];
const beacons = [];
const define = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });

define("localStorage", {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, text) => void stored.set(name, text),
  removeItem: (name) => void stored.delete(name),
});
define("navigator", { doNotTrack: null, sendBeacon: (url, body) => beacons.push({ url, body }) });
define("location", { href: "https://shop.example/page", origin: "https://shop.example" });
define("document", { visibilityState: "visible" });
define("addEventListener", (type, listener) => void (listeners[type] = listener));
console.warn = (...said) => warnings.push(said);

const { default: twotower } = await import(process.env.TWOTOWER_MJS);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = async (happens) => {
  for (let left = 500; !happens(); left--) {
    if (!left) throw new Error("it did not happen within 5 s");
    await pause(10);
  }
};
let open = 0;
let answered = 0;
const kept = []; // whether the browser is asked to finish the request of a page that is gone
const realFetch = fetch;
define("fetch", async (...request) => {
  open++;
  kept.push(request[1].keepalive);
  try {
    return await realFetch(...request);
  } finally {
    answered++;
    open--;
  }
});
const make = (more) => twotower({ url: server + "/", user, waitMs: 20, ...more });

const scenarios = {
  async delivers() {
    const shop = make();
    shop.track("view", "item-1", { value: 2.5, properties: { channel: "wéb 🛒" } });
    shop.track("purchase", 7);
    await until(() => answered === 1 && !open);
  },
  async many() {
    const shop = make({ waitMs: 1e6 });
    for (let n = 0; n < 45; n++) shop.track("view", "item-1");
    await until(() => answered >= 3 && !open);
  },
  async again() {
    const shop = make();
    shop.track("view", "item-1");
    await until(() => answered === 2 && !open);
  },
  async rejected() {
    const shop = make();
    shop.track("", "item-1");
    await until(() => warnings.length);
    shop.track("view", "item-1");
    await until(() => answered === 2 && !open);
  },
  async attribution() {
    const shop = make();
    const answer = await shop.recommend({ num_results: 3 });
    shop.track("click", answer.items[1].item_id);
    shop.track("click", "an item that was not shown");
    await shop.flush();
    return answer.recommendation_id;
  },
  async refusedRequest() {
    return make().recommend({ num_results: 0 }).catch((error) => error.message);
  },
  async consent() {
    const shop = make({ consent: false });
    const before = shop.track("view", "item-1");
    await shop.recommend({});
    const kept = stored.size;
    shop.consent(true);
    shop.track("view", "item-1");
    await shop.flush();
    const between = stored.size;
    shop.track("view", "item-1");
    shop.consent(false);
    await shop.flush();
    return { before, kept, between, after: stored.size };
  },
  async doNotTrack() {
    navigator.doNotTrack = "1";
    const first = make().track("view", "item-1");
    navigator.doNotTrack = null;
    navigator.globalPrivacyControl = true;
    return { ids: [first, make().track("view", "item-1")], kept: stored.size };
  },
  async blockedStorage() {
    localStorage.getItem = localStorage.setItem = () => {
      throw new Error("SecurityError");
    };
    const shop = make();
    shop.track("view", "item-1");
    shop.track("view", "item-1");
    await shop.flush();
  },
  async fullStorage() {
    localStorage.setItem = () => {
      throw new Error("QuotaExceededError");
    };
    const shop = make({ user: undefined });
    const answer = await shop.recommend({ num_results: 1 });
    for (let n = 0; n < 2; n++) shop.track("view", answer.items[0].item_id, { properties: { number: n } });
    let sent;
    const ask = fetch;
    define("fetch", (url, init) => ask(url, { ...init, body: (sent = init.body) }));
    await shop.flush();
    return { answer: answer.recommendation_id, events: JSON.parse(sent).events };
  },
  async large() {
    const shop = make();
    shop.track("view", "item-1", { properties: { note: "食".repeat(25_000) } });
    await shop.flush();
    return kept;
  },
  async sessions() {
    const shop = make({ user: undefined });
    shop.track("view", "item-1");
    const first = JSON.parse(stored.get("twotower"));
    const now = Date.now();
    Date.now = () => now + 31 * 60_000;
    shop.track("view", "item-1");
    const second = JSON.parse(stored.get("twotower"));
    shop.consent(false);
    return { newSession: first.session !== second.session, sameUser: first.user === second.user };
  },
  async leaving() {
    const shop = make({ waitMs: 1e6 });
    for (let n = 0; n < 19; n++) shop.track("view", "item-1");
    shop.track("view", "item-1", { properties: { note: "x" } });
    await until(() => answered === 1);
    shop.track("view", "item-2");
    document.visibilityState = "hidden";
    listeners.visibilitychange();
    listeners.pagehide();
    return beacons.map(({ url, body }) => [url, JSON.parse(body).events.length]);
  },
  async leavingWithKey() {
    const shop = make({ waitMs: 1e6, key: "web.secret" });
    shop.track("view", "item-1");
    listeners.pagehide();
    await until(() => answered === 1);
    return beacons.length;
  },
};

const result = await scenarios[scenario]();
process.stdout.write(JSON.stringify({ result: result ?? null, warnings, answered }));
process.exit(0);
