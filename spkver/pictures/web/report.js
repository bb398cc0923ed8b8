"use strict";
const having = (key) => RUNS.map((run, index) => [run, index]).filter(([run]) => run[key]);
const lineOf = (index) => ({ colour: colourOf(index), dash: DASHES[index % DASHES.length] });

element("h1", PAGE, RUNS.map((run) => run.name).join(", "));
const brief = element("section", PAGE, null, { id: "brief", className: "brief", aria: { label: "in brief" } });
if (DATA.best) {
  const place = element("div", brief), best = SYSTEMS[DATA.best.system], record = best.record;
  element("div", place, percent(record.eer), { className: "figure" });
  element("p", place, `is the lowest equal error rate (EER) of ${DATA.best.of} systems on ${best.list}: that of ${nameOfSystem(best)}` +
    (record.eer_interval ? `; with other speakers, 95 % of the time, between ${percent(record.eer_interval[0])} and ${percent(record.eer_interval[1])}.` : "."));
  element("p", place, "The EER is the share of errors at the threshold where strangers are accepted as often as true speakers are refused: " +
    "0 % is perfect, 50 % is guessing.", { className: "note" });
}
for (const run of RUNS) {
  const place = element("div", brief);
  element("h3", place, RUNS.length > 1 ? run.name : "This run");
  const list = element("dl", place);
  for (const [what, value] of run.facts) {
    element("dt", list, what);
    element("dd", list, value);
  }
}
if (RUNS.length > 1) {
  const legend = element("ul", PAGE, null, { className: "legend", aria: { label: "colours of the runs in all charts" } });
  RUNS.forEach((run, index) => {
    const item = element("li", legend);
    swatch(item, colourOf(index), DASHES[index % DASHES.length]);
    item.append(run.name);
  });
}

if (SYSTEMS.length) {
  const place = section("results", "Results", "Intervals hold 95 % of what other speakers would give. Cllr, in bits, is the cost of taking scores for log-likelihood ratios, " +
    "which only calibrated ones are. The lowest of a column has a star. A click on a system shows its scores and worst trials, a tick its DET curve.");
  if (!SYSTEMS.some((system) => system.curves)) {
    const nothing = { state: { focus: null, shown: new Set() }, told: [] };
    for (const list of new Set(SYSTEMS.map((system) => system.list))) oneTable(place, list, nothing.state, () => {}, nothing.told);
  } else {
    const chosen = resultTables(place);
    const both = element("div", section("scores", "Errors and scores", "The first chart has all thresholds at once: scores that are Gaussian give straight lines, and where it is grey no curve has a whole error. " +
      "Its marks are the EER (dot), each minDCF (triangles) and the threshold of the second chart (ring), where strangers are orange and the same speaker is blue."), null, { className: "two" });
    detAndScores(element("div", both), element("div", both), chosen);
    const heard = SYSTEMS.some((system) => system.curves && Object.values(system.curves.worst).flat().some(([utt]) => hasSound(system.data, utt)));
    worstTrials(section("worst", "Trials that are most wrong", heard ? "Their first seconds can be heard."
      : DATA.clips ? "Their recordings were not found when this page was made." : "`spkver report --audio` puts their sound into the page."), chosen);
  }
}

if (having("map").length) {
  const place = section("map", "Embeddings", "In the plane, one scale for both axes; hollow: held out of the training. A click on a point names it" + (DATA.clips ? " and plays it." : "."));
  for (const [run, index] of having("map")) {
    element("h3", place, `${run.name}: ${run.map.method} of ${run.map.n} utterances`);
    embeddingMap(place, run, index);
  }
}

if (having("records").length) {
  const place = element("div", section("training", "Training"), null, { className: "plots" });
  const titles = { loss: "Loss", accuracy: "Accuracy on training crops", held_out_eer: "EER of held-out training speakers (%)", lr: "Learning rate",
    margin: "Margin (radians)", grad_norm: "Gradient norm before clipping" };
  for (const [key, title] of Object.entries(titles)) epochChart(place, title, having("records").filter(([run]) => run.records[key]).map(([run, index]) => ({
    ...run.records[key], name: run.name, ...lineOf(index) })));
}

if (having("development").length) {
  const place = element("div", section("development", "How embeddings develop", "Drift and 1 - CKA: change since the epoch before. Epoch 0 is before training."), null, { className: "plots" });
  for (const name of new Set(having("development").flatMap(([run]) => Object.keys(run.development)))) {
    epochChart(place, name, having("development").filter(([run]) => run.development[name]).map(([run, index]) => ({ ...run.development[name], name: run.name, ...lineOf(index) })), true);
  }
}

function epochChart(place, title, lines, dots) {
  if (!lines.length) return;
  const [, high] = rangeOf(lines.map((line) => line.x));
  chart(place, title).draw({
    x: { label: "epoch", range: [0, Math.ceil(high / 1.05 - 1e-9) || 1], whole: true }, y: { label: "", range: rangeOf(lines.map((line) => line.y)) }, lines,
    points: dots ? lines.flatMap((line) => line.x.map((x, index) => ({ x, y: line.y[index], colour: line.colour, size: 2.5 })).filter((point) => point.y != null)) : [],
  });
}

if (DATA.margin) marginExplorer(section("margin", "The margin", "All curves come from the heads that spkver trains with."), DATA.margin);

if (having("architecture").length) {
  const place = section("architecture", "Architecture");
  for (const [run] of having("architecture")) {
    const model = run.architecture;
    if (RUNS.length > 1) element("h3", place, run.name);
    element("p", place, `${model.kind}, ${model.total.toLocaleString("en")} parameters; shapes for one utterance of ${model.n_frames} frames and ${model.n_mels} mel bins.`, { className: "note" });
    const made = table(place, `architecture of ${run.name}`, [["part", ""], ["kind", ""], ["gives", ""], ["parameters", "number"], ["share", ""]]);
    for (const part of model.rows) {
      const line = element("tr", made.body);
      element("td", line, part.times > 1 ? `${part.name} (${part.times} of them)` : part.name);
      element("td", line, part.kind);
      element("td", line, `(${part.shape.join(", ")})`);
      element("td", line, (part.n * part.times).toLocaleString("en"), { className: "number" });
      const bar = element("span", element("td", line), null, { className: "bar", title: percent(part.n * part.times / model.total, 1) });
      bar.style.width = `${Math.max(1, 120 * part.n * part.times / model.total)}px`;
    }
  }
}

const settings = section("configuration", "Configuration", DATA.differences.what);
if (DATA.differences.rows.length) {
  const made = table(settings, "settings that differ", [["key", ""], ...DATA.differences.columns.map((name) => [name, ""])]);
  for (const [key, ...values] of DATA.differences.rows) {
    const line = element("tr", made.body);
    element("td", line, key);
    for (const value of values) element("td", line, value, { className: "value" });
  }
}
for (const run of RUNS) {
  const details = element("details", settings);
  element("summary", details, `all of ${run.name}` + (run.about.commit ? `, commit ${run.about.commit.slice(0, 10)}` : ""));
  element("pre", details, Object.entries(run.about).map(([key, value]) => `# ${key}: ${value}`).join("\n") + "\n" + run.config, { tabIndex: 0 });
}
finish();
