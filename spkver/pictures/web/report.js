"use strict";
const RUNS = DATA.runs;
const lineOf = (index) => ({ color: COLOURS[index % COLOURS.length], dash: DASHES[index % DASHES.length] });
// A record of an earlier version may lack a figure.
const percent = (value) => value == null ? "-" : (100 * value).toFixed(2) + " %";
const decimals = (value) => value == null ? "-" : value.toFixed(3);
const having = (key) => RUNS.map((run, index) => [run, index]).filter(([run]) => run[key]);

element("h1", PAGE, RUNS.map((run) => run.name).join(", "));
const contents = element("nav", PAGE);

function linked(id, title, note) {
  element("a", contents, title, { href: "#" + id });
  return section(id, title, note);
}

if (having("metrics").length) {
  const place = linked("results", "Results", "Error rates with 95 % intervals over speakers.");
  for (const trials of new Set(RUNS.flatMap((run) => Object.keys(run.metrics || {})))) {
    const rows = having("metrics").flatMap(([run]) => Object.entries(run.metrics[trials] || {}).map(([system, record]) => [run, system, record]));
    const costs = [...new Set(rows.flatMap(([, , record]) => Object.keys(record)))].filter((key) => /^min_dcf_[0-9.e-]+$/.test(key));
    if (!rows.length) continue;
    const first = rows[0][2];
    element("p", place, `${trials}: ${first.targets ?? "?"} target, ${first.nontargets ?? "?"} nontarget trials`, { className: "note" });
    const table = element("table", place);
    const head = element("tr", table);
    for (const name of ["run", "system", "EER", "95 %", ...costs.map((key) => `minDCF(${key.slice(8)})`), "threshold"]) element("th", head, name);
    for (const [run, system, record] of rows) {
      const interval = record.eer_interval;
      const line = element("tr", table);
      const cells = [run.name, system, percent(record.eer), interval ? `${percent(interval[0])} to ${percent(interval[1])}` : "-",
        ...costs.map((key) => decimals(record[key])), decimals(record.threshold)];
      for (const cell of cells) element("td", line, cell);
    }
  }
}

if (having("records").length) {
  const place = element("div", linked("training", "Training"), null, { className: "plots" });
  const titles = { loss: "loss", accuracy: "accuracy on training crops", held_out_eer: "held-out EER (%)", lr: "learning rate",
    margin: "margin (radians)", grad_norm: "gradient norm before clipping" };
  for (const [key, title] of Object.entries(titles)) {
    const traces = having("records").filter(([run]) => run.records[key]).map(([run, index]) => ({
      ...run.records[key], name: run.name, mode: key === "held_out_eer" ? "lines+markers" : "lines", line: lineOf(index),
    }));
    if (traces.length) plot(place, traces, { title: { text: title }, xaxis: { title: { text: "epoch" } }, showlegend: RUNS.length > 1 });
  }
}

const systems = having("systems").flatMap(([run]) => Object.entries(run.systems).map(([name, system]) => [`${run.name}, ${name}`, system]));
if (systems.length) {
  const det = linked("det", "Detection error trade-off", "On normal-deviate axes: scores that are Gaussian give straight lines.");
  const ticks = DATA.ticks;
  const traces = systems.flatMap(([name, system], index) => [
    { x: system.det[0], y: system.det[1], name, mode: "lines", line: lineOf(index), hoverinfo: "name" },
    { x: system.points.flatMap((point) => point[1]), y: system.points.flatMap((point) => point[2]), mode: "markers", name: `${name}: points`,
      text: system.points.map((point) => point[0]), hovertemplate: "%{text}", marker: { color: COLOURS[index % COLOURS.length], size: 9,
        symbol: ["circle", "triangle-up", "triangle-down", "square"] }, showlegend: false },
  ]);
  const axis = { tickvals: ticks.map((tick) => tick[1]), ticktext: ticks.map((tick) => tick[0]), range: [ticks[0][1], ticks[ticks.length - 1][1]], zeroline: false };
  plot(det, traces, { xaxis: { ...axis, title: { text: "false alarms (% of nontargets)" } },
    yaxis: { ...axis, title: { text: "misses (% of targets)" } } }, true).classList.add("square");

  const scores = element("div", linked("scores", "Scores", "Densities of scores; the dashed line is the threshold at the EER."), null, { className: "plots" });
  for (const [name, system] of systems) {
    const middle = system.edges.slice(1).map((edge, index) => (edge + system.edges[index]) / 2);
    plot(scores, [["nontargets", COLOURS[1]], ["targets", COLOURS[0]]].map(([kind, color]) => ({
      x: middle, y: system[kind], type: "bar", name: kind, marker: { color }, opacity: 0.65 })), {
      title: { text: `${name}: ${system.points[0][0]}` }, barmode: "overlay", bargap: 0, xaxis: { title: { text: "score (cosine)" } },
      shapes: [{ type: "line", x0: system.threshold, x1: system.threshold, yref: "paper", y0: 0, y1: 1, line: { color: COLOURS[3], dash: "dash" } }],
    });
  }
}

for (const [run, index] of having("map")) drawMap(run, index);

if (having("development").length) {
  const place = element("div", linked("development", "How embeddings develop", "Drift, 1 - CKA: change since the epoch before. Epoch 0 is before training."), null, { className: "plots" });
  for (const name of new Set(having("development").flatMap(([run]) => Object.keys(run.development)))) {
    plot(place, having("development").filter(([run]) => run.development[name]).map(([run, index]) => ({
      ...run.development[name], name: run.name, mode: "lines+markers", line: lineOf(index) })),
      { title: { text: name }, xaxis: { title: { text: "epoch" } }, showlegend: RUNS.length > 1, yaxis: { rangemode: "tozero" } });
  }
}

marginExplorer(linked("margin", "The margin", "All curves come from the heads that spkver trains with."), DATA.margin);

for (const [run, index] of having("architecture")) {
  const model = run.architecture;
  const place = linked("architecture-" + index, RUNS.length > 1 ? `Architecture of ${run.name}` : "Architecture",
    `${model.kind}, ${model.total.toLocaleString("en")} parameters; shapes for one utterance of ${model.n_frames} frames and ${model.n_mels} mel bins.`);
  const table = element("table", place);
  const head = element("tr", table);
  for (const name of ["part", "kind", "gives", "parameters", ""]) element("th", head, name);
  for (const part of model.rows) {
    const line = element("tr", table);
    element("td", line, part.times > 1 ? `${part.name} (${part.times} of them)` : part.name);
    element("td", line, part.kind);
    element("td", line, `(${part.shape.join(", ")})`);
    element("td", line, (part.n * part.times).toLocaleString("en"), { className: "number" });
    const bar = element("span", element("td", line), null, { className: "bar" });
    bar.style.width = `${Math.max(1, 200 * part.n * part.times / model.total)}px`;
  }
}

const config = linked("configuration", "Configuration");
for (const run of RUNS) {
  const details = element("details", config);
  element("summary", details, run.name + (run.about.commit ? `, commit ${run.about.commit.slice(0, 10)}` : ""));
  element("pre", details, Object.entries(run.about).map(([key, value]) => `# ${key}: ${value}`).join("\n") + "\n" + run.config);
}
finish();

// The embedding map: a slider over the snapshots, hover tells the utterance, a click plays it.
function drawMap(run, index) {
  const map = run.map;
  const note = `${map.method} of ${map.n} utterances of ${new Set(map.speakers).size} speakers; hollow: held out of the training.` +
    (run.audio ? " Click on a point to hear it." : "");
  const place = linked("map-" + index, RUNS.length > 1 ? `Embeddings of ${run.name}` : "Embeddings", note);
  const places = unpack(map.places, Uint16Array);
  const speakers = [...new Set(map.speakers)];
  const colours = map.speakers.map((speaker) => COLOURS[speakers.indexOf(speaker) % COLOURS.length]);
  const shapes = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
  const symbols = map.speakers.map((speaker) => shapes[speakers.indexOf(speaker) % shapes.length]);
  // Hollow by an invisible filling: WebGL does not draw plotly's open symbols everywhere.
  const fillings = colours.map((colour, at) => map.held_out[at] ? "rgba(255,255,255,0)" : colour);
  const axis = (which, snapshot) => {
    const [low, span] = [map.low[which], map.high[which] - map.low[which]];
    return Float64Array.from({ length: map.n }, (_, at) => low + span * places[(snapshot * map.n + at) * 2 + which] / 65535);
  };
  const range = (which) => {
    const space = 0.05 * (map.high[which] - map.low[which]) || 1;
    return [map.low[which] - space, map.high[which] + space];
  };
  const last = map.epochs.length - 1;
  const controls = element("div", place, null, { className: "controls" });
  const show = (at) => map.epochs[at] ? "epoch " + map.epochs[at] : "before training";
  const heard = element("audio", place, null, { controls: true, hidden: !run.audio, id: "audio-" + index });
  const drawn = plot(place, [{
    type: "scattergl", mode: "markers", x: axis(0, last), y: axis(1, last), marker: { color: fillings, line: { color: colours, width: 1.3 }, symbol: symbols, size: 8 },
    customdata: map.utts.map((utt, at) => [utt, map.speakers[at]]), hovertemplate: "%{customdata[0]}<br>speaker %{customdata[1]}<extra></extra>",
  }], { xaxis: { range: range(0), zeroline: false, showticklabels: false }, yaxis: { range: range(1), zeroline: false, showticklabels: false } }, true);
  drawn.id = "embedding-map-" + index;
  const input = slider(controls, "epoch", 0, last, 1, last, show, (at) => Plotly.restyle(drawn, { x: [axis(0, at)], y: [axis(1, at)] }));
  input.id = "epoch-slider-" + index;
  const button = element("button", controls, "play");
  button.addEventListener("click", () => {
    let at = 0;
    const timer = setInterval(() => {
      input.value = at;
      input.dispatchEvent(new Event("input"));
      if (at++ >= last) clearInterval(timer);
    }, Math.max(100, 4000 / (last + 1)));
  });
  if (run.audio) drawn.on("plotly_click", (event) => {
    const clip = run.audio[event.points[0].customdata[0]];
    if (!clip) return;
    heard.src = "data:audio/ogg;base64," + clip;
    heard.play().catch(() => {}); // a browser that forbids it leaves the audio's own button
  });
}
