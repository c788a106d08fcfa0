// What the page shows of an answer: its tokens in their submodels' colours, its numbers, and the budget that is left.

const KINDS = { e2e: "whole response", tpot: "each token", ttft: "first token" };
const REASONS = { stop: "ended by itself", length: "reached max tokens" };

const element = (id) => document.getElementById(id);

export function duration(ms) {
  if (ms >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms >= 100 ? 0 : ms >= 10 ? 1 : 2)} ms`;
}

function speed(perSecond) {
  return perSecond.toLocaleString("en", { maximumFractionDigits: perSecond < 10 ? 1 : 0 });
}

export function budgetText(ms, kind) {
  return ms === null ? "No budget" : `${duration(ms)} for the ${KINDS[kind]}`;
}

export class View {
  constructor(submodels) {
    this.submodels = submodels;
  }

  /** asked: whether the answer stands below the prompt, as in a chat, or goes on with it. */
  clear(prompt, asked) {
    const shown = document.createElement("span");
    shown.className = asked ? "prompt asked" : "prompt";
    shown.textContent = prompt;
    element("answer").replaceChildren(shown);
    element("strip").replaceChildren();
    element("legend").replaceChildren();
    element("status").textContent = "";
    element("predicted").textContent = "";
    element("error").hidden = true;
  }

  /** Append a chunk to the run of its submodel, or begin the next run. Its text may be empty: half a character. */
  write(text, trace) {
    const shown = element("answer");
    const follows = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
    const last = shown.lastElementChild;
    const submodel = trace?.submodel ?? last.dataset.submodel ?? this.submodels.universal;
    let run = last;
    if (last.dataset.submodel !== submodel) {
      run = this.submodels.make("span", submodel);
      run.classList.add("run");
      shown.append(run);
      element("strip").append(this.submodels.make("div", submodel));
    }
    run.append(text);
    const part = element("strip").lastElementChild;
    part.style.flexGrow = Number(part.style.flexGrow) + (trace?.tokens ?? 0);
    run.title = `${submodel}: ${part.style.flexGrow} tokens`;
    if (follows) shown.scrollTop = shown.scrollHeight; // unless the reader has gone up
  }

  legend(answer) {
    const used = this.submodels.options.map((option) => option.name).filter((name) => answer.tokens.has(name));
    const items = used.map((name) => {
      const item = this.submodels.make("li", name);
      const tokens = answer.tokens.get(name);
      const label = document.createElement("b");
      label.textContent = name;
      const amount = document.createElement("span");
      amount.textContent = `${tokens} ${tokens === 1 ? "token" : "tokens"} · ${Math.round((100 * tokens) / answer.count)} %`;
      item.append(label, " ", amount);
      return item;
    });
    element("legend").replaceChildren(...items);
  }

  numbers(answer) {
    const tpotMs = answer.tpotMs;
    element("speed").textContent = tpotMs ? speed(1000 / tpotMs) : "–";
    showTime("ttft", answer.ttftMs);
    showTime("elapsed", answer.e2eMs);
    this.slack(answer.budget, answer.kind, answer.usedMs, answer.report?.budget_met ?? null);
  }

  /** used: milliseconds, or null before anything was asked. met: the server's verdict, or null. */
  slack(budget, kind, used, met) {
    const bar = element("slack");
    const left = element("slack-left");
    element("slack-kind").textContent = budgetText(budget, kind);
    bar.hidden = budget === null;
    left.textContent = left.className = "";
    if (budget === null) return;
    const spent = used ?? 0;
    const full = Math.max(budget, spent);
    bar.querySelector(".used").style.width = `${(100 * spent) / full}%`;
    bar.querySelector(".limit").style.left = `calc(${(100 * budget) / full}% - 1px)`;
    bar.classList.toggle("close", met === null && spent > 0.85 * budget && spent <= budget);
    bar.classList.toggle("over", spent > budget);
    bar.setAttribute("aria-valuenow", Math.min(100, Math.round((100 * spent) / budget)));
    const slack = spent > budget ? `${duration(spent - budget)} over` : `${duration(budget - spent)} left`;
    bar.setAttribute("aria-valuetext", slack);
    if (used === null) return;
    left.textContent = met === null ? slack : `${met ? "kept" : "missed"}, ${slack}`;
    left.className = met === true ? "kept" : met === false || spent > budget ? "missed" : "";
  }

  /** error: what ended it before its end, or null. What was refused has no numbers, and no time left of its budget. */
  end(answer, error) {
    this.numbers(answer);
    if (error) this.slack(answer.budget, answer.kind, null, null);
    if (error && answer.count === 0) {
      ["speed", "ttft", "elapsed"].forEach((id) => showTime(id, null));
      element("status").textContent = error.status ? "refused" : "failed";
      return;
    }
    const tokens = `${answer.count} ${answer.count === 1 ? "token" : "tokens"}`;
    element("status").textContent = `${tokens} · ${REASONS[answer.finish] ?? (error ? "broke off" : "stopped")}`;
    const { predicted_ms: predicted, measured_ms: measured } = answer.report ?? {};
    if (predicted && measured) {
      const [before, after] = [duration(predicted[answer.kind]), duration(measured[answer.kind])];
      element("predicted").textContent = `Predicted ${before} when it began, took ${after}`;
    }
  }

  busy(is) {
    const [shown, other] = is ? [element("stop"), element("send")] : [element("send"), element("stop")];
    const isFocused = document.activeElement === other;
    element("answer").setAttribute("aria-busy", is);
    shown.hidden = false;
    other.hidden = true;
    if (isFocused) shown.focus();
  }

  error(message) {
    element("error").textContent = message;
    element("error").hidden = false;
  }
}

function showTime(id, ms) {
  const [number, name] = ms === null ? ["–", ""] : duration(ms).split(" ");
  const unit = document.createElement("small");
  unit.textContent = name && ` ${name}`;
  element(id).replaceChildren(number, unit);
}
