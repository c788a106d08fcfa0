// The page: asks for a completion with a budget, and hands what comes to the view and the chart.

import { Answer } from "./answer.js";
import { Chart } from "./chart.js";
import { completion, get } from "./stream.js";
import { Submodels } from "./submodels.js";
import { View, budgetText } from "./view.js";

const element = (id) => document.getElementById(id);
const checked = (name) => document.querySelector(`[name=${name}]:checked`).value;
const chart = new Chart(element("frontier"));

let submodels = new Submodels();
let view = new View(submodels);
let running = null; // the AbortController of the answer that is coming

// The budget: the number is what will be asked for, the slider one way to set it.

const limit = () => Number(element("budget-ms").value) || null;
const maxTokens = () => Number(element("max-tokens").value) || 1;
const scale = () => submodels.scale(checked("kind"), maxTokens());
const pinned = () => element("model").selectedOptions[0]?.dataset.submodel || null;

function setFromSlider() {
  const ms = scale().budgetAt(Number(element("budget").value));
  element("budget-ms").value = ms === null ? "" : ms >= 100 ? Math.round(ms) : Number(ms.toPrecision(3));
  showBudget();
}

function setFromNumber() {
  element("budget").value = scale().positionOf(limit());
  showBudget();
}

function showBudget() {
  element("budget").setAttribute("aria-valuetext", budgetText(limit(), checked("kind")));
  chart.foresee(pinned() ?? submodels.affordable(limit(), checked("kind"), maxTokens()));
  if (running === null) view.slack(limit(), checked("kind"), null, null);
}

/** Marks on the slider: where a submodel is just fast enough. */
function showMarks() {
  const { positionOf } = scale();
  const named = [];
  const marks = Submodels.byFame(submodels.elastic).map((option) => {
    const position = positionOf(submodels.predicted(option, checked("kind"), maxTokens()));
    const mark = submodels.make("span", option.name);
    mark.style.left = `${position}%`;
    if (named.every((other) => Math.abs(other - position) > 3.6)) {
      mark.textContent = option.name;
      named.push(position);
    }
    return mark;
  });
  element("marks").replaceChildren(...marks);
}

/** Another kind of budget: as tight a one of it, since the number would mean something else. */
function changeKind() {
  showMarks();
  setFromSlider();
}

/** The same budget for a longer or shorter response. */
function changeLength() {
  showMarks();
  setFromNumber();
}

// The answer

const authorization = () => (element("key").value ? { Authorization: `Bearer ${element("key").value}` } : {});

function question() {
  const body = {
    model: element("model").value,
    prompt: element("prompt").value,
    max_tokens: maxTokens(),
    temperature: Number(element("temperature").value),
  };
  if (element("seed").value !== "") body.seed = Number(element("seed").value);
  const headers = authorization();
  if (limit() !== null) headers[`x-slo-${checked("kind")}-ms`] = String(limit());
  if (element("strict").checked) headers["x-slo-strict"] = "true";
  return [body, headers];
}

async function ask(event) {
  event.preventDefault();
  if (running !== null) return;
  const [body, headers] = question();
  const answer = new Answer(checked("kind"), limit());
  running = new AbortController();
  view.clear(body.prompt);
  view.busy(true);
  chart.operate(null);
  const tick = () => {
    if (running === null) return;
    view.numbers(answer);
    requestAnimationFrame(tick);
  };
  tick();
  try {
    for await (const chunk of completion(body, headers, running.signal)) {
      const trace = answer.take(chunk);
      const text = chunk.choices?.[0]?.text ?? "";
      if (text || trace) view.write(text, trace);
      if (trace) {
        chart.operate(trace.submodel);
        view.legend(answer);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    running = null;
    view.busy(false);
    view.numbers(answer);
    view.end(answer);
  }
}

function fail(error) {
  view.error(error.message);
  if (error.status === 401) {
    element("more").open = true;
    element("key").focus();
  }
}

// The server

async function load() {
  try {
    const [models, frontier] = await Promise.all([
      get("v1/models", authorization()),
      get("playground/frontier", authorization()),
    ]);
    submodels = new Submodels(frontier);
    view = new View(submodels);
    element("model").replaceChildren(...models.data.map(modelChoice));
    element("error").hidden = true;
    drawFrontier();
    showMarks();
  } catch (error) {
    fail(error);
  }
}

function modelChoice(model) {
  const choice = document.createElement("option");
  const elastic = model.id === submodels.model;
  choice.value = model.id;
  choice.dataset.submodel = elastic ? "" : (model.lts?.submodel ?? "");
  choice.textContent = elastic ? `${model.id} (the budget chooses)` : model.id;
  return choice;
}

function drawFrontier() {
  chart.draw(submodels, checked("axis"));
  showBudget();
}

element("ask").addEventListener("submit", ask);
element("stop").addEventListener("click", () => running?.abort());
element("budget").addEventListener("input", setFromSlider);
element("budget-ms").addEventListener("input", setFromNumber);
element("max-tokens").addEventListener("input", changeLength);
element("model").addEventListener("change", showBudget);
element("key").addEventListener("change", load);
element("temperature").addEventListener("input", () => {
  element("temperature-text").value = Number(element("temperature").value).toFixed(1);
});
document.querySelectorAll("[name=kind]").forEach((input) => input.addEventListener("change", changeKind));
document.querySelectorAll("[name=axis]").forEach((input) => input.addEventListener("change", drawFrontier));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("ask").requestSubmit();
});
load();
