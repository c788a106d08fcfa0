// The frontier as SVG: loss (parameters, where none was measured) against cost, a point for every submodel, and two
// rings that move over them.

import { Submodels } from "./submodels.js";

const BOX = { left: 62, right: 348, top: 12, bottom: 350 };
const AXES = { predicted_tpot_ms: "predicted ms per token, alone", relative_size: "share of the universal model's size" };
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  constructor(svg) {
    this.svg = svg;
    this.places = new Map(); // name -> [x, y]
  }

  /** axis: which of the options' numbers goes to the right. The rings stay on their submodels. */
  draw(submodels, axis) {
    const options = submodels.options;
    const rings = [this.preview?.dataset.submodel, this.now?.dataset.submodel];
    this.svg.replaceChildren();
    if (options.length === 0) return;
    const losses = options.map((option) => option.likely_loss).filter((loss) => loss !== null);
    const isLoss = options.some((option) => option.loss !== null);
    const height = (option) => (isLoss ? (option.likely_loss ?? Math.min(...losses)) : option.decoder_params);
    const x = scale(options.map((option) => option[axis]), BOX.left + 8, BOX.right - 12);
    const y = scale(options.map(height), BOX.bottom - 10, BOX.top + 8);
    const [lines, columns] = [ticks(y.low, y.high), ticks(x.low, x.high)];
    const [lineText, columnText] = [texts(lines), texts(columns)];
    for (const value of lines) {
      this.add("line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: y(value), y2: y(value) });
      this.add("text", { x: BOX.left - 7, y: y(value) + 4, "text-anchor": "end" }, lineText(value));
    }
    for (const value of columns) {
      this.add("line", { class: "grid", x1: x(value), x2: x(value), y1: BOX.top, y2: BOX.bottom });
      this.add("text", { x: x(value), y: BOX.bottom + 16, "text-anchor": "middle" }, columnText(value));
    }
    this.add("text", { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 36, "text-anchor": "middle" }, AXES[axis]);
    const middle = (BOX.top + BOX.bottom) / 2;
    const title = isLoss ? "validation loss" : "decoder parameters: no loss was measured";
    this.add("text", { transform: `translate(8 ${middle}) rotate(-90)`, "text-anchor": "middle" }, title);
    this.places = new Map(options.map((option) => [option.name, [x(option[axis]), y(height(option))]]));
    const front = submodels.elastic.map((option) => this.places.get(option.name).join(","));
    this.add("polyline", { class: "front", points: front.join(" ") });
    for (const option of options) {
      const [cx, cy] = this.places.get(option.name);
      const dot = this.add("circle", { class: "point", cx, cy, r: 6.5 });
      dot.classList.toggle("unmeasured", option.loss === null);
      submodels.paint(dot, option.name);
      const trained = option.untrained ? ", never trained: no budget chooses it" : "";
      const quality = `loss ${option.loss ?? "not measured"}, ${short(option.decoder_params)} parameters${trained}`;
      this.add("title", {}, `${option.name}: ${quality}, ${option.predicted_tpot_ms.toFixed(2)} ms a token`, dot);
    }
    this.label(options);
    this.preview = this.add("circle", { class: "ring", id: "preview", r: 11 });
    this.now = this.add("circle", { class: "ring", id: "now", r: 11 });
    this.foresee(rings[0]);
    this.operate(rings[1]);
  }

  /** What the budget affords; null for none. */
  foresee(name) {
    this.move(this.preview, name);
  }

  /** What writes now; null for nothing. */
  operate(name) {
    this.move(this.now, name);
  }

  move(ring, name) {
    if (!ring) return; // nothing is drawn yet
    const place = this.places.get(name);
    ring.style.visibility = place ? "visible" : "hidden";
    ring.dataset.submodel = place ? name : "";
    if (place) ring.style.transform = `translate(${place[0]}px, ${place[1]}px)`;
  }

  /** Names beside the points, where no other name or point is; a granularity has its own even beside a point. */
  label(options) {
    const points = [...this.places.values()];
    const names = [];
    for (const option of Submodels.byFame(options)) {
      const name = Submodels.label(option);
      const [x, y] = this.places.get(option.name);
      const half = 3.5 * name.length + 2;
      const [left, right] = [x - 10 - half, x + 10 + half];
      const places = [[right, y - 9], [x, y - 17], [right, y + 17], [left, y - 9], [left, y + 17], [x, y + 25]];
      const isInside = ([at, base]) => at + half < 360 && at - half > BOX.left && base < BOX.bottom && base > 9;
      const clear = ([at, base], [to, middle], wide, high) => Math.abs(at - to) >= wide || Math.abs(base - 4 - middle) >= high;
      const isFree = (place) => names.every((other) => clear(place, [other.at, other.base - 4], half + other.half, 12));
      const free = places.filter((place) => isInside(place) && isFree(place));
      const best = free.find((place) => points.every((point) => clear(place, point, half + 7, 12)));
      const place = best ?? (Submodels.isShare(option) ? undefined : free[0]);
      if (!place) continue;
      names.push({ at: place[0], base: place[1], half });
      this.add("text", { class: "name", x: place[0], y: place[1], "text-anchor": "middle" }, name);
    }
  }

  add(tag, attributes, text, parent = this.svg) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }
}

/** Linear, from the values' range to start … stop. */
function scale(values, start, stop) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const map = (value) => (high === low ? (start + stop) / 2 : start + ((value - low) / (high - low)) * (stop - start));
  return Object.assign(map, { low, high });
}

/** About five round numbers between low and high. */
function ticks(low, high) {
  if (!(high > low)) return [low];
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let count = Math.ceil(low / step); count * step <= high * (1 + 1e-9); count++) values.push(count * step);
  return values;
}

/** What to write at ticks: with as few digits as tell them apart. */
function texts(values) {
  const formats = [4, 6, 8, 10].map((digits) => new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: digits }));
  const format = formats.find((each) => new Set(values.map((value) => each.format(value))).size === values.length);
  return (value) => (format ?? COMPACT).format(value);
}

function short(value) {
  return COMPACT.format(value);
}
