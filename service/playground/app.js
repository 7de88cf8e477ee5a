// Starts the page: theme, panels, key, and the parts of the panel People.

import { onKeyTrouble, readKey } from "./api.js";
import { catalogue, readCatalogue } from "./catalogue.js";
import { askKey, askStore, openItem } from "./dialogs.js";
import { byId, capital, el, fill, icon, many, say, sentence } from "./dom.js";
import { startFind } from "./find.js";
import { markMap, showMap } from "./mapview.js";
import { showPeople, showUser, startPeople } from "./people.js";
import { person, watch } from "./person.js";
import { forgetPlaces, listed, noteInput, refresh, startRanked } from "./ranked.js";
import { drawTimeline, search } from "./timeline.js";

const PANELS = ["people", "map", "planner", "server"];
const root = document.documentElement;
let started = false;
let shownPerson = null;
let serverShown = false;

startTheme();
startPanels();
startKey();
start();

async function start() {
  try {
    await readCatalogue();
  } catch (trouble) {
    fill(byId("ranked"), el("li", { class: "plain" }, sentence(trouble.message, { label: "Try again", run: start })));
    root.dataset.busy = "no";
    if (trouble.status !== 401) notice(trouble.message);
    return;
  }
  notice("");
  if (!started) {
    started = true;
    const tools = { open: openItem, store: () => askStore((user_id, told) => stored(user_id, told)) };
    startRanked({ open: openItem, onList: () => markMap(listed()) });
    startFind();
    startPeople();
    startSearch();
    for (const type of ["click", "keydown"]) addEventListener(type, (event) => noteInput(event.timeStamp), { capture: true });
    watch((what) => {
      if (shownPerson !== `${person.kind} ${person.id}`) forgetPlaces();
      shownPerson = `${person.kind} ${person.id}`;
      say(what);
      drawTimeline(tools);
      refresh();
    });
  }
  await showPeople();
  root.dataset.ready = "yes";
  showPanel();
}

function stored(user_id, told) {
  notice(`${many(told.accepted, "event")} stored for ${user_id}${told.rejected.length ? `; ${told.rejected.length} refused: ${told.rejected[0].reason}` : ""}.`, true);
  showUser(user_id);
}

/** A sentence above everything; "" hides it. A good one goes by itself. */
function notice(text, good = false) {
  const node = byId("notice");
  node.hidden = !text;
  node.classList.toggle("good", good);
  fill(node, text);
  if (good) setTimeout(() => node.textContent === text && (node.hidden = true), 6000);
}

function startKey() {
  const again = () => {
    drawKey();
    start();
  };
  const ask = (why) => askKey(why, again);
  byId("key").addEventListener("click", () => ask("A server that was started with --keys answers only to a key. Without one, leave this empty."));
  onKeyTrouble((trouble) => ask(trouble.message));
  drawKey();
}

function drawKey() {
  const label = readKey() ? "API key: set" : "API key: none";
  fill(byId("key"), icon("key"));
  byId("key").setAttribute("aria-label", label);
  byId("key").title = label;
  byId("key").classList.toggle("set", Boolean(readKey()));
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const draw = () => {
    const label = isDark() ? "Light colours" : "Dark colours";
    fill(byId("theme"), icon(isDark() ? "sun" : "moon"));
    byId("theme").setAttribute("aria-label", label);
    byId("theme").title = label;
  };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("twotower.theme", root.dataset.theme);
    } catch {
      // The choice then lasts as long as the page.
    }
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
}

function startPanels() {
  addEventListener("hashchange", () => {
    showPanel();
    byId("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  });
  showPanel();
}

/** Shows the panel that the address names. What only that panel needs is read then. */
async function showPanel() {
  const asked = location.hash.slice(1);
  const name = PANELS.includes(asked) ? asked : "people";
  for (const one of PANELS) byId(`panel-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = name === "people" ? "twotower playground" : `${capital(name)} · twotower playground`;
  if (root.dataset.ready !== "yes") return;
  if (name === "map") showMap(openItem, listed());
  if (name === "planner") (await import("./planner.js")).showPlanner(catalogue);
  const server = name === "server" || serverShown ? await import("./server.js") : null;
  serverShown = name === "server";
  if (serverShown) server.showServer(byId("server"));
  else server?.hideServer();
}

function startSearch() {
  byId("shop-search").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    const text = byId("search-text").value.trim();
    byId("search-text").value = "";
    if (!/[\p{L}\p{N}]/u.test(text)) return; // a search has at least one letter or digit
    search(text);
  });
}
