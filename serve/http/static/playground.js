// The page: asks for a completion with a budget, and hands what comes to the view and the chart.

import { Answer } from "./answer.js";
import { Chart } from "./chart.js";
import { events, get } from "./stream.js";
import { Submodels } from "./submodels.js";
import { View, budgetText } from "./view.js";

const element = (id) => document.getElementById(id);
const checked = (name) => document.querySelector(`[name=${name}]:checked`).value;
const chart = new Chart(element("frontier"));

const NAME_PX = 25; // that the name of a mark takes

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
    named.push({ option, position });
    return mark;
  });
  element("marks").replaceChildren(...marks, ...markNames(named));
}

/** Every granularity has its name, pushed to the right where marks lie close, and back where the slider's end is near;
 * shares have theirs where there is room. */
function markNames(marks) {
  const gap = (100 * NAME_PX) / (element("marks").clientWidth || 300);
  const isFree = (at, others) => others.every((other) => Math.abs(other.at - at) >= gap);
  const names = [];
  const trained = marks.filter(({ option }) => !Submodels.isShare(option)).sort((one, other) => one.position - other.position);
  for (const { option, position } of trained) {
    names.push({ option, at: Math.max(position, names.length ? names.at(-1).at + gap : 0) });
  }
  let end = 100 - 1.5 * gap; // before the word "tight"
  for (const name of [...names].reverse()) {
    name.at = Math.min(name.at, end);
    end = name.at - gap;
  }
  for (const { option, position } of marks) {
    if (Submodels.isShare(option) && isFree(position, names)) names.push({ option, at: position });
  }
  return names.map(({ option, at }) => {
    const name = document.createElement("b");
    name.textContent = Submodels.label(option);
    name.style.left = `${at}%`;
    return name;
  });
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

const isChat = () => !element("modes").hidden && checked("mode") === "chat";

function question() {
  const prompt = element("prompt").value;
  const body = {
    model: element("model").value,
    ...(isChat() ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: maxTokens(),
    temperature: Number(element("temperature").value),
  };
  if (element("seed").value !== "") body.seed = Number(element("seed").value);
  const headers = authorization();
  if (limit() !== null) headers[`x-slo-${checked("kind")}-ms`] = String(limit());
  if (element("strict").checked) headers["x-slo-strict"] = "true";
  return [body, headers];
}

/** Says what is wrong with the first field that cannot be sent, if any. Returns whether one is. */
function isMistaken() {
  const isWrong = (field) => (field.id === "prompt" ? !field.value.trim() : !field.checkValidity());
  const fields = [...document.querySelectorAll("[data-wants]")];
  const wrong = fields.find(isWrong);
  fields.forEach((field) => field.setAttribute("aria-invalid", field === wrong));
  element("mistake").hidden = !wrong;
  if (!wrong) return false;
  element("mistake").textContent = wrong.dataset.wants;
  if (wrong.closest("details")) wrong.closest("details").open = true;
  wrong.focus();
  return true;
}

async function ask(event) {
  event.preventDefault();
  if (running !== null || isMistaken()) return;
  const path = isChat() ? "v1/chat/completions" : "v1/completions";
  const [body, headers] = question();
  const answer = new Answer(checked("kind"), limit());
  running = new AbortController();
  let failure = null;
  view.clear(element("prompt").value, isChat());
  view.busy(true);
  element("answer").parentElement.scrollIntoView({ block: "nearest" });
  chart.operate(null);
  const tick = () => {
    if (running === null) return;
    view.numbers(answer);
    requestAnimationFrame(tick);
  };
  tick();
  try {
    for await (const chunk of events(path, body, headers, running.signal)) {
      const trace = answer.take(chunk);
      const text = chunk.choices?.[0]?.text ?? chunk.choices?.[0]?.delta?.content ?? "";
      if (text || trace) view.write(text, trace);
      if (trace) {
        chart.operate(trace.submodel);
        view.legend(answer);
      }
    }
  } catch (error) {
    failure = error.name === "AbortError" ? null : error;
  } finally {
    running = null;
    view.busy(false);
    view.end(answer, failure);
    if (failure) fail(failure); // last: it may move the focus
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
    element("model").replaceChildren(...modelChoices(models.data));
    element("error").hidden = true;
    if (submodels.chat && element("modes").hidden) document.querySelector("[name=mode][value=chat]").checked = true;
    element("modes").hidden = !submodels.chat;
    drawFrontier();
    showMarks();
  } catch (error) {
    fail(error);
  }
}

/** Each once, by its own name; under its precision where there are several. */
function modelChoices(models) {
  const shown = models.filter(({ id, lts }) => id === submodels.model || !lts || id.endsWith(`:${lts.submodel}`));
  const groups = Map.groupBy(shown, ({ id, lts }) => (id === submodels.model ? "" : (lts?.precision ?? "float32")));
  return [...groups].flatMap(([precision, members]) => {
    const choices = members.map(modelChoice);
    if (precision === "" || groups.size < 3) return choices;
    const group = document.createElement("optgroup");
    group.label = precision;
    group.append(...choices);
    return group;
  });
}

function modelChoice(model) {
  const choice = document.createElement("option");
  const elastic = model.id === submodels.model;
  choice.value = model.id;
  choice.dataset.submodel = elastic ? "" : (model.lts?.submodel ?? "");
  const word = elastic ? " (the budget chooses)" : model.lts?.untrained ? " (never trained)" : "";
  choice.textContent = model.id + word;
  return choice;
}

function drawFrontier() {
  chart.draw(submodels, checked("axis"));
  element("precisions").textContent = Submodels.marks(submodels.options);
  showBudget();
}

element("ask").addEventListener("submit", ask);
element("ask").addEventListener("input", (event) => {
  element("mistake").hidden = true;
  event.target.removeAttribute("aria-invalid");
});
window.addEventListener("resize", showMarks);
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
