// The server's submodels as the page needs them: their colours, and what a response that is alone would take of them.

export class Submodels {
  /** frontier: what GET /playground/frontier answers. Options are widest first. */
  constructor(frontier = { model: null, universal: null, chat: false, options: [] }) {
    this.model = frontier.model;
    this.universal = frontier.universal;
    this.chat = frontier.chat;
    this.options = frontier.options;
    this.elastic = frontier.options.filter((option) => option.elastic);
  }

  /** An element in the submodel's colour: its place among all, 0 for the narrowest and 1 for the widest. */
  paint(element, name) {
    const place = this.options.findIndex((option) => option.name === name);
    const weight = place < 0 || this.options.length < 2 ? 1 : 1 - place / (this.options.length - 1);
    element.classList.add("of-submodel");
    element.dataset.submodel = name;
    element.style.setProperty("--w", weight);
    return element;
  }

  make(tag, name) {
    return this.paint(document.createElement(tag), name);
  }

  /** In the order in which they get a label where not all of them fit: trained granularities, then shares as 0.62. */
  static byFame(options) {
    const rank = (option) => Number(Submodels.isShare(option));
    return [...options].sort((one, other) => rank(one) - rank(other));
  }

  static isShare(option) {
    return /^[0-9]/.test(option.name);
  }

  /** Where there is little room: S₄ for S@int4. */
  static label(option) {
    return option.name.replace(/@.*/, bits(option.precision));
  }

  /** By precision, the most precise first. */
  static marks(options) {
    const precisions = [...new Set(options.map((option) => option.precision))].filter(bits);
    return precisions.map((precision) => `${bits(precision)} ${precision}`).join(", ");
  }

  predicted(option, kind, maxTokens) {
    if (kind === "ttft") return option.predicted_ttft_ms;
    if (kind === "tpot") return option.predicted_tpot_ms;
    return option.predicted_ttft_ms + option.predicted_tpot_ms * Math.max(0, maxTokens - 1);
  }

  /** The widest that keeps the budget when alone, else the narrowest; without a budget the universal model. */
  affordable(ms, kind, maxTokens) {
    if (ms === null) return this.universal;
    const kept = this.elastic.find((option) => this.predicted(option, kind, maxTokens) <= ms);
    return (kept ?? this.elastic.at(-1))?.name ?? null;
  }

  /** A scale for budgets, from loose to tight: positions are 0 for none, then 1 to 100 in equal ratios. */
  scale(kind, maxTokens) {
    const times = this.elastic.map((option) => this.predicted(option, kind, maxTokens));
    const [loose, tight] = times.length ? [3 * Math.max(...times), 0.6 * Math.min(...times)] : [10000, 10];
    return {
      budgetAt: (position) => (position < 1 ? null : loose * (tight / loose) ** ((position - 1) / 99)),
      positionOf: (ms) => (ms === null ? 0 : Math.min(100, Math.max(1, 1 + (99 * Math.log(ms / loose)) / Math.log(tight / loose)))),
    };
  }
}

function bits(precision) {
  return { bfloat16: "₁₆", int8: "₈", int4: "₄" }[precision] ?? "";
}
