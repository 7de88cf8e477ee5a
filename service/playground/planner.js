// The panel Planner: a budget of compute, and what GET /v1/plan says it is best spent on.

import { get } from "./api.js";
import { bytes, capital, count, debounced, duration, el, fill, byId, power, sentence, short, svg } from "./dom.js";
import { kindColour } from "./palette.js";

const [LOW, HIGH] = [12.8, 24]; // log10 of the budgets that can be planned for
const START = 15;
const ASK_AFTER_MS = 60;
const METRICS = ["ndcg@10", "recall@10", "mrr@10", "hit_rate@10", "set_loss", "perplexity", "entropy"];
const asked = { log: START, metric: "ndcg@10", items: "", events: "", memory: "" };
let asking = null;

/** Draws the panel once; the sizes begin with those of the served catalogue. */
export function showPlanner(catalogue) {
  if (byId("plan-form")) return;
  asked.items = String(catalogue.items || "");
  const field = (label, node, unit = "") => el("label", { class: "field" }, el("span", {}, label), node, unit && el("span", { class: "unit" }, unit));
  const text = (name, placeholder, mode = "numeric") => el("input", { type: "text", inputMode: mode, value: asked[name], placeholder, id: `plan-${name}`, on: { input: (event) => change(name, event.target.value.trim()) } });
  const slider = el("input", { type: "range", id: "plan-budget", min: LOW, max: HIGH, step: 0.1, value: asked.log, on: { input: (event) => change("log", Number(event.target.value)) } });
  const metric = el("select", { id: "plan-metric", on: { change: (event) => change("metric", event.target.value) } }, METRICS.map((name) => el("option", { value: name, selected: name === asked.metric }, name)));
  fill(
    byId("planner"),
    el(
      "form",
      { class: "card plan-form", id: "plan-form", on: { submit: (submitted) => submitted.preventDefault() } },
      el("label", { class: "budget", for: "plan-budget" }, el("span", {}, "Training compute"), el("output", { id: "plan-flops", for: "plan-budget" })),
      slider,
      el("div", { class: "option-grid" }, field("Metric that you serve", metric), field("Items", text("items", "of the catalogue")), field("Events", text("events", "that you have")), field("Memory of a GPU", text("memory", "80GB", "text"))),
    ),
    el("div", { id: "plan" }),
  );
  ask();
}

function change(name, value) {
  asked[name] = value;
  drawBudget();
  later();
}

function drawBudget() {
  byId("plan-flops").textContent = `${power(10 ** asked.log)} FLOPs`;
  byId("plan-budget").setAttribute("aria-valuetext", `10 to the power of ${asked.log} FLOPs`);
}

const later = debounced(() => ask(), ASK_AFTER_MS);

async function ask() {
  drawBudget();
  asking?.abort();
  asking = new AbortController();
  const plain = (text) => text.replaceAll(",", "").replaceAll(" ", "");
  try {
    const query = { flops: (10 ** asked.log).toExponential(3), metric: asked.metric, items: plain(asked.items), events: plain(asked.events), gpu_memory: asked.memory };
    draw(await get("v1/plan", query, { signal: asking.signal }));
  } catch (trouble) {
    if (trouble.name !== "AbortError") fill(byId("plan"), el("div", { class: "card" }, sentence(trouble.message)));
  }
}

function draw(plan) {
  const best = plan.choices[0];
  const { model, schedule, negatives, memory } = plan;
  const timed = plan.times.find((time) => time.seconds !== null);
  fill(
    byId("plan"),
    el(
      "div",
      { class: "tiles" },
      tile("Model", short(model.parameters), "parameters", `${model.width} wide, ${model.num_layers} layers, ${model.num_heads} heads`),
      tile("Data", short(plan.events), "events to read", `${short(best.events_per_parameter)} for each parameter`),
      tile("Embedder", `${(100 * model.embedder_share).toFixed(1)} %`, "of the parameters", `${model.embedder}, ${model.embedder_layers} layers of ${model.embedder_hidden}`),
      tile("Batch", count(schedule.batch), "queries a step", schedule.knee),
      tile("Steps", count(schedule.steps), `learning rate ${schedule.learning_rate.toPrecision(2)}`, `the first ${count(schedule.warmup_steps)} warm up`),
      tile("Candidates", short(negatives.candidates), "of each query", negatives.whole_catalogue ? "the whole catalogue, so the loss is exact" : `${short(negatives.as_dear_as_the_model)} would cost as much as the model`),
      tile("Memory", bytes(memory.total), memory.shards > 1 ? `over ${count(memory.shards)} devices` : "on one device", memory.binds === "nothing" || !memory.available ? `${bytes(memory.model)} of it is the model` : `the ${memory.binds} decide`),
      tile("Time", timed ? duration(timed.seconds) : "–", "on two CPU cores", timed ? timed.hardware : "not timed"),
    ),
    el("div", { class: "columns even" }, el("section", { class: "card" }, el("h2", {}, "Sizes by budget"), chart(plan)), el("section", { class: "card" }, el("h2", {}, "Where the compute goes"), shares(plan.cost), notes(plan))),
  );
}

function tile(label, value, unit, more) {
  return el("div", { class: "tile" }, el("span", { class: "label" }, label), el("span", { class: "value" }, value), el("span", { class: "unit" }, unit), el("span", { class: "more" }, more));
}

const W = 560;
const H = 320;
const PAD = { left: 48, right: 14, top: 12, bottom: 34 };

/** Parameters and events that are best at each budget: the published points, the law through them, and the plan. */
function chart(plan) {
  const law = plan.choices.find((choice) => choice.source === "published law") ?? plan.choices[0];
  const at = Math.log10(plan.flops);
  const line = (value, slope) => (log) => Math.log10(value) + slope * (log - at);
  const kinds = [
    { name: "parameters", mark: "n", value: law.parameters, slope: plan.exponents.parameters, chosen: plan.choices[0].parameters, read: (point) => point.parameters },
    { name: "events", mark: "d", value: law.events, slope: plan.exponents.events, chosen: plan.choices[0].events, read: (point) => point.events },
  ].map((kind) => ({ ...kind, line: line(kind.value, kind.slope) }));
  const ends = kinds.flatMap((kind) => [kind.line(LOW), kind.line(HIGH)]);
  const [low, high] = [Math.floor(Math.min(...ends)), Math.ceil(Math.max(...ends))];
  const x = (log) => PAD.left + ((log - LOW) / (HIGH - LOW)) * (W - PAD.left - PAD.right);
  const y = (log) => H - PAD.bottom - ((log - low) / (high - low)) * (H - PAD.top - PAD.bottom);
  const grid = [];
  for (let log = Math.ceil(LOW); log <= HIGH; log += 2) grid.push(svg("text", { x: x(log), y: H - 12, "text-anchor": "middle" }, power(10 ** log)), svg("line", { class: "grid", x1: x(log), x2: x(log), y1: PAD.top, y2: H - PAD.bottom }));
  for (let log = low; log <= high; log += 2) grid.push(svg("text", { x: PAD.left - 6, y: y(log) + 4, "text-anchor": "end" }, short(10 ** log)), svg("line", { class: "grid", x1: PAD.left, x2: W - PAD.right, y1: y(log), y2: y(log) }));
  const drawn = kinds.map((kind) => [
    svg("line", { class: `law ${kind.mark}`, x1: x(LOW), y1: y(kind.line(LOW)), x2: x(HIGH), y2: y(kind.line(HIGH)) }),
    plan.published.map((point) => svg("circle", { class: `point ${kind.mark}`, cx: x(Math.log10(point.flops)), cy: y(Math.log10(kind.read(point))), r: 3.5 })),
    svg("circle", { class: `chosen ${kind.mark}`, cx: x(at), cy: y(Math.log10(kind.chosen)), r: 7 }),
  ]);
  const cursor = svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: PAD.top, y2: H - PAD.bottom });
  const told = `At ${power(plan.flops)} FLOPs: ${short(plan.choices[0].parameters)} parameters and ${short(plan.choices[0].events)} events.`;
  return [
    svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": told }, grid, cursor, drawn),
    el("p", { class: "legend" }, el("span", { class: "key n" }, "parameters"), el("span", { class: "key d" }, "events"), el("span", {}, "Dots: published points. Lines: the law through them. Rings: this plan. Across: FLOPs.")),
  ];
}

/** The share of each term of a training step, for both stages. */
function shares(cost) {
  const bar = (label, terms) => {
    const parts = Object.entries(terms).filter(([, share]) => share >= 0.01).sort((a, b) => b[1] - a[1]);
    return el(
      "div",
      { class: "stacked" },
      el("span", { class: "label" }, label),
      el("div", { class: "stack-bar", role: "img", "aria-label": parts.map(([name, share]) => `${name} ${Math.round(100 * share)} %`).join(", ") }, parts.map(([name, share], index) => el("span", { vars: { share: String(share), tint: kindColour(index) }, title: `${name}: ${Math.round(100 * share)} %` }, share > 0.14 ? `${name.replaceAll("_", " ")} ${Math.round(100 * share)} %` : ""))),
    );
  };
  return [bar("First stage", cost.stage_1), bar("Second stage", cost.stage_2), el("p", { class: "hint" }, `${power(cost.model_flops)} FLOPs by 6 N D; ${power(cost.exact_flops)} with every term counted.`)];
}

function notes(plan) {
  const list = (title, texts, kind) => texts.length > 0 && [el("h3", {}, title), el("ul", { class: `notes ${kind}` }, texts.map((text) => el("li", {}, capital(text))))];
  return [list("Think about", plan.warnings, "warn"), list("Taken for granted", plan.assumptions, "quiet")];
}
