"use strict";
// The table of all systems, and what a click in it chooses: DET curves, a histogram, a threshold, the trials most wrong.
const RUNS = DATA.runs, SYSTEMS = DATA.systems;
const ONE_RUN = RUNS.length === 1;
const colourOfSystem = (system) => system.name === "untrained" ? GREY : colourOf(ONE_RUN ? system.kind : system.run);
const dashOfSystem = (system) => DASHES[(system.name === "untrained" ? system.run : system.kind) % DASHES.length];
const nameOfSystem = (system) => `${RUNS[system.run].name}, ${system.name}`;

function resultTables(parent) {
  const state = { focus: SYSTEMS.find((system) => system.best && system.curves) || SYSTEMS.find((system) => system.curves), shown: new Set() };
  const drawable = SYSTEMS.filter((system) => system.curves);
  for (const system of drawable.length > 6 ? drawable.filter((one) => one.name.endsWith("cosine") || one === state.focus) : drawable) state.shown.add(system);
  const told = [];
  const change = () => { for (const tell of told) tell(); };
  for (const list of [...new Set(SYSTEMS.map((system) => system.list))]) oneTable(parent, list, state, change, told);
  return { state, told, change };
}

function oneTable(parent, list, state, change, told) {
  const systems = SYSTEMS.filter((system) => system.list === list);
  const first = systems[0].record;
  element("h3", parent, `${list}: ${first.targets ?? "?"} target, ${first.nontargets ?? "?"} nontarget trials`);
  const costs = [...new Set(systems.flatMap((system) => Object.keys(system.record)))].filter((key) => /^min_dcf_[0-9.e-]+$/.test(key)).sort();
  const interval = (ends) => ends ? `${(100 * ends[0]).toFixed(2)} to ${percent(ends[1])}` : "-";
  // What a column says, what it is sorted by, and whether the lowest is best.
  const columns = [
    ["EER", (record) => percent(record.eer), (record) => record.eer, true],
    ["95 % interval", (record) => interval(record.eer_interval), (record) => record.eer_interval?.[0]],
    ...costs.map((key) => [`minDCF(${key.slice(8)})`, (record) => decimals(record[key]), (record) => record[key], true]),
    ["Cllr", (record) => decimals(record.cllr), (record) => record.cllr, true],
    ["threshold", (record) => decimals(record.threshold), (record) => record.threshold],
    ["EER difference", null, (record, system) => system.difference?.difference],
  ];
  const made = table(parent, `systems on ${list}`, [["DET", ""], ["system", ""], ...columns.map(([name]) => [name, "number"])]);
  const best = columns.map(([, , value, lower]) => lower ? Math.min(...systems.filter((system) => system.name !== "untrained").map((system) => value(system.record) ?? Infinity)) : null);
  for (const system of systems) {
    const line = element("tr", made.body);
    system.line = line;
    const box = element("td", line);
    if (system.curves) {
      const tick = element("input", box, null, { type: "checkbox", checked: state.shown.has(system), aria: { label: `DET curve of ${nameOfSystem(system)}` } });
      tick.addEventListener("change", () => { tick.checked ? state.shown.add(system) : state.shown.delete(system); change(); });
    }
    const name = element("td", line);
    const text = ONE_RUN ? system.name : nameOfSystem(system);
    if (system.curves) {
      const choose = button(name, "", () => { state.focus = system; change(); });
      swatch(choose, colourOfSystem(system), dashOfSystem(system));
      choose.append(" " + text);
      const tell = () => { choose.setAttribute("aria-pressed", state.focus === system); line.classList.toggle("chosen", state.focus === system); };
      told.push(tell);
      tell();
    } else element("span", name, text);
    columns.forEach(([, show, value], index) => {
      const found = value(system.record, system);
      const cell = element("td", line, show ? show(system.record) : differenceText(system.difference), { className: "number", title: !show && system.difference ? `to ${system.difference.to}` : "" });
      if (best[index] !== null && found === best[index]) { cell.classList.add("best"); cell.title = "the lowest"; }
    });
  }
  if (systems.some((system) => system.difference)) {
    const others = ONE_RUN ? "to cosine" : `of ${RUNS[0].name} to its cosine, of other runs to the same system of ${RUNS[0].name}`;
    element("p", parent, `EER difference: ${others}, in percentage points, on the same draws of speakers; an interval without 0 is a difference.`, { className: "note" });
  }
  columns.forEach(([name, , value], index) => {
    const head = made.head.children[index + 2];
    head.textContent = "";
    button(head, name, () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of made.head.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      // What has no figure stays last.
      const ordered = [...systems].sort((a, b) => {
        const [x, y] = [value(a.record, a), value(b.record, b)];
        return (x == null) - (y == null) || (up ? x - y : y - x);
      });
      made.body.replaceChildren(...ordered.map((system) => system.line));
    });
  });
}

function differenceText(difference) {
  if (!difference) return "-";
  return `${signed(difference.difference)} (${signed(difference.low)} to ${signed(difference.high)})`;
}

function detAndScores(detPlace, scoresPlace, { state, told }) {
  const det = chart(detPlace, "Detection error trade-off", 0.86);
  const scores = chart(scoresPlace, "Scores", 0.6);
  const controls = element("div", scoresPlace, null, { className: "controls" });
  const said = element("p", scoresPlace, "", { id: "threshold-said", className: "said", aria: { live: "polite" } });
  let at = 0;
  const counts = () => {
    const curves = state.focus.curves;
    curves.accepted_at = curves.accepted_at || unpack(curves.accepted, Uint32Array);
    curves.refused_at = curves.refused_at || unpack(curves.refused, Uint32Array);
    const { low, high, n_steps, n_nontargets, n_targets } = curves;
    return { value: low + (high - low) * at / n_steps, accepted: curves.accepted_at[at], refused: curves.refused_at[at], n_nontargets, n_targets };
  };
  const { input, set } = slider(controls, "threshold", "threshold", 0, state.focus.curves.n_steps, 1, 0, () => decimals(counts().value), (to) => { at = to; draw(); });
  button(controls, "where both errors are equal", () => set(state.focus.curves.equal_error_step), { id: "threshold-equal" });
  const rate = (count, of) => {
    const number = 1000 * count / of;
    return number === 0 ? "none" : number < 10 ? number.toFixed(1) : String(Math.round(number));
  };

  function draw() {
    const system = state.focus, curves = system.curves, now = counts();
    said.textContent = `${nameOfSystem(system)}, threshold ${decimals(now.value)}: of 1,000 strangers ${rate(now.accepted, now.n_nontargets)} are accepted, ` +
      `of 1,000 true trials ${rate(now.refused, now.n_targets)} are refused.`;
    const width = (curves.high - curves.low) / curves.targets.length;
    const edges = Array.from({ length: curves.targets.length + 1 }, (_, index) => curves.low + width * index);
    scores.draw({
      title: `Scores of ${nameOfSystem(system)}`, x: { label: system.axis, range: [curves.low, curves.high] },
      y: { label: "density", range: rangeOf([curves.targets, curves.nontargets]), ticks: [] },
      steps: [{ edges, heights: curves.nontargets, colour: colourOf(1), name: "strangers (nontarget trials)" }, { edges, heights: curves.targets, colour: colourOf(0), name: "the same speaker (target trials)" }],
      rules: [{ x: now.value, name: decimals(now.value) }],
      say: (x) => {
        const bin = Math.max(0, Math.min(curves.targets.length - 1, Math.floor((x - curves.low) / width)));
        return `${system.axis} ${decimals(x)}: density of strangers ${short(curves.nontargets[bin])}, of the same speaker ${short(curves.targets[bin])}`;
      },
    });
    const shown = SYSTEMS.filter((one) => one.curves && (state.shown.has(one) || one === system));
    const xs = shown.flatMap((one) => one.curves.det[0]), ys = shown.flatMap((one) => one.curves.det[1]);
    const highest = DATA.ticks[DATA.ticks.length - 1][0];
    const [x0, y0] = [Math.min(...xs), Math.min(...ys)].map((low) => Math.min(low, highest - 1) - 0.05);
    const half = (count, of) => Math.min(Math.max(count, 0.5), of - 0.5) / of;
    const one = Math.max(...shown.map((other) => other.curves.n_nontargets)), two = Math.max(...shown.map((other) => other.curves.n_targets));
    det.draw({
      x: { label: "false alarms (% of nontargets)", range: [x0, highest], ticks: DATA.ticks }, y: { label: "misses (% of targets)", range: [y0, highest], ticks: DATA.ticks },
      bands: [{ x: [x0, deviate(1 / one)], name: "less than one error" }, { y: [y0, deviate(1 / two)], name: "less than one error" }],
      lines: [{ x: [-9, 9], y: [-9, 9], colour: GREY, dash: "1 4", width: 1 },
        ...shown.map((one) => ({ x: one.curves.det[0], y: one.curves.det[1], colour: colourOfSystem(one), dash: dashOfSystem(one), name: nameOfSystem(one), width: one === system ? 3.2 : 1.6 }))],
      points: [...system.curves.points.map(([name, x, y], index) => ({ x, y, name, colour: colourOfSystem(system), shape: index })),
        { x: deviate(half(now.accepted, now.n_nontargets)), y: deviate(half(now.refused, now.n_targets)), name: "the threshold", colour: colourOf(3), hollow: true, size: 8 }],
      say: (x) => `false alarms ${short(100 * share(x))} %: ` + shown.map((one) => `${nameOfSystem(one)} misses ${missesAt(one.curves.det, x)}`).join(", "),
    });
  }

  const refocus = () => { input.max = state.focus.curves.n_steps; set(state.focus.curves.equal_error_step); };
  let before = null;
  const tell = () => { if (before !== state.focus) { before = state.focus; refocus(); } else draw(); };
  told.push(tell);
  tell();
}

function missesAt([xs, ys], x) {
  const index = xs.findIndex((value) => value >= x);
  return index < 0 ? "-" : short(100 * share(ys[index])) + " %";
}

// The normal distribution's quantile and share: a table from Python, read linearly.
function deviate(rate) {
  const { rates, deviates } = DATA.normal;
  return interpolated(rates, deviates, rate);
}
const share = (value) => interpolated(DATA.normal.deviates, DATA.normal.rates, value);

function interpolated(xs, ys, x) {
  if (x <= xs[0]) return ys[0];
  let high = xs.findIndex((value) => value >= x);
  if (high < 0) return ys[ys.length - 1];
  return ys[high - 1] + (ys[high] - ys[high - 1]) * (x - xs[high - 1]) / (xs[high] - xs[high - 1]);
}

function worstTrials(parent, { state, told }) {
  const places = element("div", parent, null, { className: "two" });
  const tell = () => {
    places.replaceChildren();
    for (const [kind, title] of [["nontargets", "Strangers that score highest"], ["targets", "True trials that score lowest"]]) {
      const place = element("div", places);
      element("h3", place, `${title}: ${nameOfSystem(state.focus)}`);
      const made = table(place, `${title} of ${nameOfSystem(state.focus)}`, [["enrolled", ""], ["tested", ""], ["score", "number"]]);
      for (const [enroll, test, score] of state.focus.curves.worst[kind]) {
        const line = element("tr", made.body);
        for (const name of [enroll, test]) {
          const cell = element("td", line);
          if (!playable(cell, `${state.focus.data}:${name}`, name)) cell.textContent = name;
        }
        element("td", line, decimals(score), { className: "number" });
      }
    }
  };
  told.push(tell);
  tell();
}
