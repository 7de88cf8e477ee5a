// Calls of the server, and what went wrong in sentences. The API key stays in this tab.

import { capital } from "./dom.js";

const KEY = "twotower.key";
const TIMEOUT_MS = 20000;

/** An answer that is no success, in a sentence for people. `code` is the server's, or "unreachable". */
class Trouble extends Error {
  constructor(sentence, code, status = 0) {
    super(sentence);
    this.code = code;
    this.status = status;
  }
}

const listeners = new Set();

/** Called with each Trouble about the key, so that the page can ask for one. */
export function onKeyTrouble(listener) {
  listeners.add(listener);
}

export function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function writeKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    throw new Trouble("This browser keeps nothing for this page, so the key cannot be kept either. Allow storage for this site.", "storage");
  }
}

/** The decoded answer to a GET; `query` leaves out parameters that are null. */
export function get(path, query = {}, options = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const asked = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  return send("GET", asked, null, options);
}

/** The decoded answer to a POST of JSON. */
export function post(path, body, options = {}) {
  return send("POST", path, JSON.stringify(body), options);
}

/** `as` names the method of the answer that reads it. */
async function send(method, path, body, { signal = null, as = "json", cache = "no-store" } = {}) {
  const headers = {};
  if (body !== null) headers["Content-Type"] = "application/json";
  if (readKey()) headers.Authorization = `Bearer ${readKey()}`;
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(path, { method, headers, body, cache, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    if (response.ok) return await response[as]();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (limit.aborted) throw new Trouble("The server took longer than 20 seconds. It may be busy: try again in a moment.", "slow");
    if (error instanceof SyntaxError) throw new Trouble("Something else than this server answered. Is there a proxy between?", "unknown");
    throw new Trouble("The server cannot be reached. Is `twotower serve` still running? The page tries again when you do.", "unreachable");
  }
  throw await troubleOf(response, path);
}

async function troubleOf(response, path) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // An answer that is not ours, such as a proxy's page: its status says enough.
  }
  const retryS = Number(response.headers.get("retry-after")) || 0;
  const trouble = new Trouble(sentenceOf(response.status, told, retryS, path), told.code ?? "unknown", response.status);
  if (trouble.status === 401) for (const listener of listeners) listener(trouble);
  return trouble;
}

function sentenceOf(status, told, retryS, path) {
  const wait = retryS > 1 ? `in ${retryS} seconds` : "in a second";
  switch (status) {
    case 401:
      return readKey()
        ? "The server does not take this API key: it is unknown or expired. Enter another one."
        : "This server wants an API key. Enter one with the scope `recommend`.";
    case 403:
      return `Your API key does not open ${path.split("?")[0]}: ${told.message ?? "a scope is missing"}. Use a key that has it.`;
    case 404:
      return told.message ? `${capital(told.message)}.` : "The server does not have this. It may be an older version: reload the page.";
    case 413:
      return "This history is too long for one request. Remove some events.";
    case 422:
      return `The server cannot use this request: ${told.message ?? "a field is wrong"}.`;
    case 429:
      return `This API key has used up its requests for now. Try again ${wait}.`;
    case 502:
    case 503:
      return told.code === "history_unavailable"
        ? "The store of histories does not answer. People without a stored history still work; look at the server's log."
        : `The server has no room or is not ready (${told.message ?? "503"}). Try again ${wait}.`;
    case 504:
      return "The server did not finish in time. It is busy: try again in a moment.";
    default:
      return `The server failed (${status}). ${told.request_id ? `Its log has the reason under ${told.request_id}.` : "Its log may say why."}`;
  }
}

/** The path of an id, which may hold any characters. */
export const idPath = (id) => encodeURIComponent(id);

/** Random letters and digits; it also works where the page is not served over TLS, unlike randomUUID. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
