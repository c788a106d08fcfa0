// What has come of one answer. Nothing here knows the page.

export class Answer {
  /** kind: of the budget (e2e, tpot, ttft). budget: in milliseconds, or null. */
  constructor(kind, budget) {
    this.kind = kind;
    this.budget = budget;
    this.startedAt = performance.now();
    this.tokens = new Map(); // by the submodel that wrote them
    this.first = null; // traces; their times are the server's, since the request arrived
    this.last = null;
    this.report = null; // the server's own account, with the last chunk
    this.finish = null;
  }

  /** Returns the chunk's trace: {submodel, tokens, at_ms}, or null where it has none. */
  take(chunk) {
    this.finish = chunk.choices?.[0]?.finish_reason ?? this.finish;
    const trace = typeof chunk.lts?.tokens === "number" ? chunk.lts : null;
    if (trace) {
      this.tokens.set(trace.submodel, (this.tokens.get(trace.submodel) ?? 0) + trace.tokens);
      this.first ??= trace;
      this.last = trace;
    } else if (chunk.lts) {
      this.report = chunk.lts;
    }
    return trace;
  }

  get count() {
    return [...this.tokens.values()].reduce((sum, count) => sum + count, 0);
  }

  /** By the page's clock, until the server says how long it took. */
  get e2eMs() {
    return this.report?.measured_ms?.e2e ?? performance.now() - this.startedAt;
  }

  get ttftMs() {
    return this.report?.measured_ms?.ttft ?? this.first?.at_ms ?? null;
  }

  /** Null before a second chunk: one chunk has no time between tokens. */
  get tpotMs() {
    const later = this.first ? this.count - this.first.tokens : 0;
    return this.report?.measured_ms?.tpot ?? (later > 0 ? (this.last.at_ms - this.first.at_ms) / later : null);
  }

  /** So far, of what the budget bounds. */
  get usedMs() {
    if (this.kind === "tpot") return this.tpotMs ?? 0;
    return this.kind === "ttft" ? (this.ttftMs ?? this.e2eMs) : this.e2eMs;
  }
}
