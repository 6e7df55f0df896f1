"use strict";
// Everything that a run has written is untrusted: it becomes text nodes and numbers, nothing else.
const DATA = JSON.parse(document.getElementById("data").textContent);
const LEVELS = 9, ROW = 52, BINS = 400;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function show(value, { digits = 3, sign = false } = {}) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  const zero = Number(text) === 0;
  return (value < 0 && !zero ? "−" : sign && !zero ? "+" : "") + text;
}

const compact = (x) => x === null ? "–" : Math.abs(x) >= 1000 ? x.toFixed(0).replace("-", "−")
  : String(Number(x.toPrecision(3))).replace("-", "−");

const words = (status) => status.replaceAll("_", " ");

// --- rollouts -----------------------------------------------------------------------------------

const rollouts = [];
DATA.steps.forEach((step, stepIndex) => step.groups.forEach((group, groupIndex) => {
  const siblings = group.rollouts.map((rollout, position) => Object.assign(rollout, {
    id: `${step.step}.${groupIndex}.${position}`, stepIndex, step: step.step, position,
    problem: group.problem_id, prompt: group.prompt,
    gap: rollout.teacher_logprob && rollout.teacher_logprob.map(
      (q, i) => q === null || rollout.student_logprob[i] === null ? null
        : q - rollout.student_logprob[i]),
    length: rollout.student_logprob.filter((x) => x !== null).length,
  }));
  for (const rollout of siblings) { rollout.siblings = siblings; rollouts.push(rollout); }
}));

const mean = (values, of = (x) => x) => {
  let sum = 0, count = 0;
  for (const x of values || []) if (x !== null) { sum += of(x); count += 1; }
  return count ? sum / count : null;
};
const once = (key, compute) => (r) => r[key] === undefined ? (r[key] = compute(r)) : r[key];
const text = once("text", (r) => [r.problem, r.prompt, r.tokens.join(""), r.answer, r.feedback,
  r.demonstration, r.status].join("\n").toLowerCase());
const SORTS = {
  order: ["in order", (r) => -rollouts.indexOf(r), () => ""],
  gap: ["|log-ratio|", once("meanGap", (r) => mean(r.gap, Math.abs)), (v) => show(v)],
  divergence: ["divergence", once("meanDivergence", (r) => mean(r.divergence)), (v) => show(v)],
  reward: ["reward", (r) => r.reward, (v) => show(v, { digits: 2 })],
  length: ["length", (r) => r.length, (v) => `${v} tokens`],
};

// --- views: what colors the tokens --------------------------------------------------------------

const VIEWS = [
  { id: "gap", name: "Log-ratio", signed: true, of: (r) => r.gap, label: "log q − log π",
    meaning: "log q − log π in nats: blue where the teacher finds the token likelier than the "
      + "student does, orange where less likely." },
  { id: "divergence", name: "Divergence", of: (r) => r.divergence, label: "divergence",
    meaning: `${DATA.about.divergence} at each token, in nats: how far apart the two are, whatever `
      + "token was sampled." },
  { id: "implicit", name: "Implicit reward", signed: true, of: (r) => r.implicit_reward,
    label: "implicit reward",
    meaning: "The E-step's β·(log q − log π_old) of each token, q being the policy itself on the "
      + `teacher's prompt; β = ${DATA.about.beta}.` },
  { id: "credit", name: "Token's advantage", signed: true, of: (r) => r.token_advantage,
    label: "token's advantage",
    meaning: "The advantage of this token, after the teacher has weighed it." },
  { id: "entropy", name: "Student's entropy", of: (r) => r.student_entropy, label: "entropy of π",
    meaning: "Entropy of the student in nats: where it was undecided." },
  { id: "teacher-entropy", name: "Teacher's entropy", of: (r) => r.teacher_entropy,
    label: "entropy of q", meaning: "Entropy of the teacher in nats." },
  { id: "advantage", name: "GRPO's advantage", signed: true, label: "GRPO's advantage",
    of: once("flat", (r) => r.student_logprob.map((x) => x === null ? null : r.advantage)),
    meaning: "(reward − mean of the group) / its standard deviation: the same for every token of "
      + "an answer." },
].filter((view) => rollouts.some((r) => view.of(r)));

// The 98th percentile of all tokens of the run: colors mean the same in every step.
for (const view of VIEWS) {
  const all = [];
  for (const r of rollouts) for (const x of view.of(r) || []) if (x !== null) all.push(Math.abs(x));
  all.sort((a, b) => a - b);
  view.scale = Math.max(all[Math.floor(0.98 * (all.length - 1))] || 0, 0.01);
}
const TAUGHT = VIEWS.some((view) => view.id === "gap");
const ADVANTAGE = VIEWS.find((view) => view.id === "advantage");

const level = (value, scale) => Math.round(LEVELS * Math.min(Math.abs(value) / scale, 1));
function color(view, value) {
  const strength = value === null || value === undefined ? 0 : level(value, view.scale);
  return strength ? `${view.signed ? (value > 0 ? "p" : "n") : "s"} l${strength}` : "";
}

// --- state, in the address ----------------------------------------------------------------------

const state = { r: rollouts[0].id, view: TAUGHT ? "gap" : "advantage", sort: "order",
  up: "", all: "", q: "", t: "" };
const initial = { ...state };
const byId = new Map(rollouts.map((r) => [r.id, r]));

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name in state) state[name] = given.get(name) ?? initial[name];
  if (!byId.has(state.r)) state.r = initial.r;
  if (!VIEWS.some((view) => view.id === state.view)) state.view = initial.view;
  if (!Object.hasOwn(SORTS, state.sort)) state.sort = initial.sort;
  if (!/^\d+$/.test(state.t)) state.t = initial.t;
}

let pending = 0;
function writeAddress() {
  clearTimeout(pending);  // browsers refuse many changes a second
  pending = setTimeout(() => {
    const changed = Object.entries(state).filter(([name, value]) => value !== initial[name]);
    history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
  }, 120);
}

const current = () => byId.get(state.r);
const view = () => VIEWS.find((v) => v.id === state.view);

// --- the list: only the rows that are seen are made ---------------------------------------------

let listed = [];

function refreshList() {
  const wanted = state.q.toLowerCase();
  const inStep = (r) => state.all || r.stepIndex === current().stepIndex;
  const [, key] = SORTS[state.sort];
  listed = rollouts.filter((r) => inStep(r) && (!wanted || text(r).includes(wanted)));
  const turn = state.up ? -1 : 1;
  listed.sort((a, b) => {  // those without a number come last
    const x = key(a), y = key(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return turn * (y - x);
  });
  $("rows").style.height = `${listed.length * ROW}px`;
  const place = state.all ? `of ${rollouts.length}` : `in step ${current().step}`;
  $("count").textContent = `${listed.length} ${listed.length === 1 ? "rollout" : "rollouts"} ${place}`;
  drawRows();
}

function drawRows() {
  const first = Math.max(Math.floor($("list").scrollTop / ROW) - 3, 0);
  const count = Math.ceil($("list").clientHeight / ROW) + 6;
  const [, key, number] = SORTS[state.sort];
  const rows = listed.slice(first, first + count).map((r, offset) => {
    const at = first + offset, chosen = r.id === state.r;
    const row = make("div", { class: "row", role: "option", id: `row-${r.id}`,
      "aria-selected": chosen, "aria-setsize": listed.length, "aria-posinset": at + 1 });
    row.style.top = `${at * ROW}px`;
    const outcome = make("span", { class: r.solved ? "solved" : "failed" },
      state.all ? `${r.step} · ${r.problem}` : r.problem);
    const shown = number(key(r)) || show(r.reward, { digits: 2 });
    row.append(make("div", {}, outcome, make("span", { class: "number" }, shown)),
      make("div", {}, make("code", {}, r.tokens.slice(0, 60).join("").slice(0, 90)),
        make("span", { class: "soft" }, words(r.status))));
    row.rollout = r;
    return row;
  });
  $("rows").replaceChildren(...rows);
  $("list").setAttribute("aria-activedescendant", `row-${state.r}`);
}

function revealRow() {
  const at = listed.indexOf(current()), list = $("list");
  if (at < 0) return;
  if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
  const below = (at + 1) * ROW - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
}

// --- one rollout --------------------------------------------------------------------------------

let spans = [];

function showRollout() {
  const r = current();
  $("title").replaceChildren(make("h2", {}, `Problem ${r.problem}`),
    make("span", { class: `number ${r.solved ? "solved" : "failed"}` },
      `reward ${show(r.reward, { digits: 2 })}`),
    ...[words(r.status), `${r.length} tokens`, r.finish === "length" ? "cut off" : "",
      `step ${r.step}`, r.teacher_prompt === null ? "no teacher" : r.taught
        ? "taught by the teacher" : "not taught: the teacher's numbers are only shown"]
      .filter(Boolean).map((word) => make("span", { class: "soft" }, word)));
  $("siblings").replaceChildren(make("span", { class: "soft" }, "Its group:"),
    ...r.siblings.map((one) => {
      const button = make("button", { "aria-pressed": one === r,
        class: one.solved ? "solved" : "failed" }, show(one.reward, { digits: 2 }));
      button.title = `Rollout ${one.position + 1}: advantage ${show(one.advantage, { sign: true })}`;
      button.onclick = () => choose(one);
      return button;
    }));
  spans = r.tokens.map((piece, i) => {
    const span = make("span", {}, piece);
    span.index = i;
    return span;
  });
  $("answer").replaceChildren(...spans);
  showTexts(r);
  colorTokens();
  state.t = "";
  readToken(null);
}

function colorTokens() {
  const r = current(), chosen = view(), values = chosen.of(r);
  const strength = level(r.advantage, ADVANTAGE.scale);
  const strip = strength ? ` ${r.advantage > 0 ? "above" : "below"} a${strength}` : "";
  spans.forEach((span, i) => {
    const piece = r.tokens[i], own = r.student_logprob[i] !== null;
    const shape = piece === "" ? " empty" : piece.startsWith("\n") ? " newline" : "";
    span.className = `t ${own ? color(chosen, values && values[i]) + strip : "environment"}${shape}`;
  });
  $("meaning").firstChild.textContent = values ? chosen.meaning
    : `${chosen.meaning} This rollout has none.`;
  showLegend(chosen);
  for (const button of $("views").children) {
    button.setAttribute("aria-checked", button.value === chosen.id);
    button.tabIndex = button.value === chosen.id ? 0 : -1;
  }
  drawBars($("signal"), values, chosen);
  drawBars($("flat"), ADVANTAGE.of(r), ADVANTAGE);
  $("signal-name").textContent = chosen.label;
  $("flat-name").textContent = `GRPO ${show(r.advantage, { digits: 2, sign: true })}`;
}

function showLegend(chosen) {
  const swatch = (value) => make("i", { class: color(chosen, value) });
  const steps = [...Array(LEVELS + 1).keys()].map((i) => (i / LEVELS) * chosen.scale);
  const ends = chosen.signed ? ["≤ −", "≥ +"] : ["", "≥ "];
  const values = chosen.signed ? [...steps.slice(1).reverse().map((x) => -x), ...steps] : steps;
  $("legend").replaceChildren(chosen.signed ? ends[0] + show(chosen.scale, { digits: 2 }) : "0",
    make("span", {}, ...values.map(swatch)), ends[1] + show(chosen.scale, { digits: 2 }));
}

// Long answers are drawn as means of neighbouring tokens.
function drawBars(svg, values, chosen) {
  const count = spans.length, size = Math.ceil(count / BINS), bins = Math.ceil(count / size);
  svg.setAttribute("viewBox", `0 ${chosen.signed ? -1 : 0} ${bins} ${chosen.signed ? 2 : 1}`);
  svg.style.width = `min(100%, ${bins * 22}px)`;
  svg.replaceChildren();
  for (let bin = 0; bin < bins; bin += 1) {
    const value = mean((values || []).slice(bin * size, (bin + 1) * size));
    const height = value === null ? 0 : Math.min(Math.abs(value) / chosen.scale, 1);
    const top = chosen.signed ? (value > 0 ? -height : 0) : 1 - height;
    svg.append(draw("rect", { x: bin + 0.08, y: top, width: 0.84, height,
      class: chosen.signed ? (value > 0 ? "p" : "n") : "s" }));
  }
  const base = chosen.signed ? 0 : 1;
  svg.append(draw("line", { x1: 0, x2: bins, y1: base, y2: base }));
  svg.size = size;
}

function showTexts(r) {
  const blocks = [["Prompt", [r.prompt, ""]], ["Feedback", [r.feedback, ""]],
    ["Demonstration: a solved answer of another rollout", [r.demonstration, ""]],
    ["Teacher's prompt; what it adds to the student's is in full ink",
      r.teacher_prompt === null ? ["", ""] : [r.teacher_prompt, r.prompt]]];
  $("texts").replaceChildren(...blocks.filter(([, [words]]) => words).map(([name, [words, base]]) => {
    const fold = make("details", {}, make("summary", {}, name));
    fold.open = !closed.has(name);
    fold.ontoggle = () => fold.open ? closed.delete(name) : closed.add(name);
    fold.append(make("pre", { class: "text" }, ...withCommonMuted(words, base)));
    return fold;
  }));
}
const closed = new Set();

function withCommonMuted(words, base) {
  let head = 0, tail = 0;
  while (head < base.length && words[head] === base[head]) head += 1;
  const most = Math.min(base.length, words.length) - head;
  while (tail < most && words[words.length - 1 - tail] === base[base.length - 1 - tail]) tail += 1;
  const muted = (part) => make("span", { class: "common" }, part);
  return [muted(words.slice(0, head)), words.slice(head, words.length - tail),
    muted(tail ? words.slice(-tail) : "")];
}

// --- one token ----------------------------------------------------------------------------------

let here = null;

function readToken(index) {
  if (here !== null && spans[here]) spans[here].classList.remove("here");
  const r = current();
  here = index !== null && index >= 0 && index < spans.length ? index : null;
  for (const svg of [$("signal"), $("flat")]) {
    svg.querySelector(".cursor")?.remove();
    if (here !== null) svg.append(draw("rect", { x: Math.floor(here / svg.size), y: -1, width: 1,
      height: 2, class: "cursor" }));
  }
  if (here === null) {
    $("readout").replaceChildren(make("div", { class: "soft" },
      "Point at a token, or focus the answer and use the arrow keys, to read its numbers."));
    return;
  }
  spans[here].classList.add("here");
  const at = (values) => values ? values[here] : null;
  const p = at(r.student_logprob), q = at(r.teacher_logprob);
  const odds = (x) => x === null || x === undefined ? "–"
    : `${show(x)} (${Number((100 * Math.exp(x)).toPrecision(3))} %)`;
  const numbers = p === null ? [["", "the environment's, not the policy's"]] : [
    ["student log π", odds(p)], ...(TAUGHT ? [["teacher log q", odds(q)]] : []),
    ...VIEWS.map((v) => [v.label, show(at(v.of(r)), { sign: v.signed })])];
  $("readout").replaceChildren(...[[`token ${here + 1} of ${spans.length}`,
    make("code", {}, JSON.stringify(r.tokens[here]))], ...numbers].map(([name, value]) =>
    make("div", {}, make("dt", {}, name || " "), make("dd", {}, value))));
}

function moveToken(to) {
  readToken(Math.min(Math.max(to, 0), spans.length - 1));
  state.t = String(here);
  spans[here].scrollIntoView({ block: "nearest" });
  writeAddress();
}

// --- curves -------------------------------------------------------------------------------------

function makeCurves() {
  const last = Math.max(1, ...DATA.metrics.flatMap((one) => one.points.map(([step]) => step)));
  $("curves").replaceChildren(...DATA.metrics.map((metric) => {
    const values = metric.points.map(([, value]) => value);
    const low = Math.min(...values), range = Math.max(...values) - low || 1;
    const path = metric.points.map(([step, value], i) =>
      `${i ? "L" : "M"}${(100 * step) / last} ${28 - (26 * (value - low)) / range}`).join("");
    const svg = draw("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none",
      "aria-hidden": true });
    svg.append(draw("path", { d: path, class: metric.points.length > 1 ? "" : "dot" }),
      draw("line", { y1: 0, y2: 30 }));
    const number = make("span", { class: "number" });
    const curve = make("div", { class: "curve" }, make("div", {},
      make("span", { class: "soft" }, metric.name), number), svg);
    curve.title = `${metric.name}: ${compact(low)} to ${compact(low + range)}; click for that step`;
    curve.onclick = (event) => {
      const box = svg.getBoundingClientRect();
      goToStep(nearest(DATA.steps, ((event.clientX - box.left) / box.width) * last, (s) => s.step));
    };
    curve.mark = (step) => {
      const line = svg.querySelector("line");
      line.setAttribute("x1", (100 * step) / last);
      line.setAttribute("x2", (100 * step) / last);
      number.textContent = compact(metric.points[nearest(metric.points, step, (p) => p[0])][1]);
    };
    return curve;
  }));
}

function nearest(items, goal, of) {
  let best = 0;
  items.forEach((item, i) => {
    if (Math.abs(of(item) - goal) < Math.abs(of(items[best]) - goal)) best = i;
  });
  return best;
}

// --- moving about -------------------------------------------------------------------------------

function choose(rollout) {
  const changesStep = rollout.stepIndex !== current().stepIndex;
  state.r = rollout.id;
  if (changesStep && !state.all) refreshList();
  refresh();
}

function refresh() {
  const r = current(), step = $("step");
  step.value = r.stepIndex;
  step.setAttribute("aria-valuetext", `step ${r.step}`);
  $("step-name").textContent = `step ${r.step}`;
  for (const curve of $("curves").children) curve.mark(r.step);
  revealRow();
  drawRows();
  showRollout();
  writeAddress();
}

function goToStep(index) {
  const bounded = Math.min(Math.max(index, 0), DATA.steps.length - 1);
  state.r = rollouts.find((r) => r.stepIndex === bounded).id;
  refreshList();
  const first = listed.find((r) => r.stepIndex === bounded);
  if (first) state.r = first.id;
  refresh();
}

function moveInList(by) {
  if (!listed.length) return;
  const at = listed.indexOf(current());
  choose(listed[Math.min(Math.max(at + by, 0), listed.length - 1)]);
}

function setView(id) { state.view = id; colorTokens(); readToken(here); writeAddress(); }

function apply() {
  $("search").value = state.q;
  $("sort").value = state.sort;
  $("direction").textContent = state.up ? "↑" : "↓";
  $("all").setAttribute("aria-pressed", Boolean(state.all));
  const token = state.t;
  refreshList();
  refresh();
  if (token !== "") moveToken(Number(token));
}

function connect() {
  $("step").max = DATA.steps.length - 1;
  $("step").oninput = () => goToStep(Number($("step").value));
  $("before").onclick = () => goToStep(current().stepIndex - 1);
  $("after").onclick = () => goToStep(current().stepIndex + 1);
  $("search").oninput = () => { state.q = $("search").value; narrowed(); };
  $("sort").onchange = () => { state.sort = $("sort").value; narrowed(); };
  $("direction").onclick = () => { state.up = state.up ? "" : "1";
    $("direction").textContent = state.up ? "↑" : "↓"; narrowed(); };
  $("all").onclick = () => { state.all = state.all ? "" : "1";
    $("all").setAttribute("aria-pressed", Boolean(state.all)); narrowed(); };
  $("strip").onchange = () => $("answer").classList.toggle("strip", $("strip").checked);
  $("list").onscroll = drawRows;
  addEventListener("resize", drawRows);
  $("rows").onclick = (event) => {
    const row = event.target.closest(".row");
    if (row) choose(row.rollout);
  };
  $("list").onkeydown = (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };
    if (event.key in by) { event.preventDefault(); moveInList(by[event.key]); }
  };
  const answer = $("answer");
  answer.onmouseover = (event) => {
    if (event.target.index !== undefined) readToken(event.target.index);
  };
  answer.onclick = (event) => {
    if (event.target.index !== undefined) moveToken(event.target.index);
  };
  answer.onkeydown = (event) => {
    const to = { ArrowRight: (here ?? -1) + 1, ArrowLeft: (here ?? 1) - 1, Home: 0, End: 1e9,
      PageDown: (here ?? 0) + 50, PageUp: (here ?? 0) - 50 };
    if (event.key in to) { event.preventDefault(); moveToken(to[event.key]); }
  };
  for (const svg of [$("signal"), $("flat")]) svg.onclick = (event) => {
    const box = svg.getBoundingClientRect(), bins = Math.ceil(spans.length / svg.size);
    moveToken(Math.floor(((event.clientX - box.left) / box.width) * bins) * svg.size);
  };
  $("views").onclick = (event) => { if (event.target.value) setView(event.target.value); };
  $("views").onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const to = (VIEWS.indexOf(view()) + by + VIEWS.length) % VIEWS.length;
    setView(VIEWS[to].id);
    $("views").children[to].focus();
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=search], select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const act = { "[": () => goToStep(current().stepIndex - 1),
      "]": () => goToStep(current().stepIndex + 1), j: () => moveInList(1),
      k: () => moveInList(-1), "/": () => $("search").focus() }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  addEventListener("hashchange", () => { readAddress(); apply(); });
  // A browser prints a closed fold closed.
  addEventListener("beforeprint", () => $("texts").querySelectorAll("details").forEach((fold) => {
    fold.open = true;
  }));
}

function narrowed() {
  refreshList();
  $("list").scrollTop = 0;
  if (listed.length && !listed.includes(current())) state.r = listed[0].id;
  refresh();
}

$("views").append(...VIEWS.map((v) => make("button", { value: v.id, role: "radio" }, v.name)));
$("sort").append(...Object.entries(SORTS)
  .filter(([, [, key]]) => rollouts.some((r) => key(r) !== null))
  .map(([id, [name]]) => make("option", { value: id }, `sort: ${name}`)));
readAddress();
makeCurves();
connect();
apply();
