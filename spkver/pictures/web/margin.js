"use strict";
// The margin explorer. All curves are tables that Python took from the heads, a row for each margin.
function marginExplorer(parent, tables) {
  const degrees = tables.degrees;
  const unpacked = {};
  for (const [name, text] of Object.entries(tables.curves)) {
    const values = unpack(text, Float32Array);
    unpacked[name] = tables.margins.map((_, row) => values.subarray(row * degrees.length, (row + 1) * degrees.length));
  }
  const state = { theta: 40, m: tables.margins.indexOf(tables.start.margin), s: tables.start.scale };
  const names = Object.keys(unpacked);
  const controls = element("div", parent, null, { className: "controls" });
  slider(controls, "theta", 0, 180, 1, state.theta, (v) => v + "°", (v) => { state.theta = v; draw(); });
  slider(controls, "m", 0, tables.margins.length - 1, 1, state.m,
    (v) => tables.margins[v].toFixed(2) + " rad", (v) => { state.m = v; draw(); });
  slider(controls, "s", 1, 64, 1, state.s, (v) => String(v), (v) => { state.s = v; draw(); });
  const said = element("p", parent, "", { className: "note", id: "margin-said" });
  const places = element("div", parent, null, { className: "plots" });
  const curves = plot(places, [], { title: { text: "logits over theta" } });
  const polar = plot(places, [], { title: { text: "the angle that training sees" } });
  curves.id = "margin-curves";

  function draw() {
    const margin = tables.margins[state.m];
    const at = state.theta;
    const traces = names.map((name, index) => ({
      x: degrees, y: Array.from(unpacked[name][state.m], (value) => state.s * value), name, mode: "lines",
      line: { color: COLOURS[index], dash: DASHES[index % DASHES.length] },
    }));
    traces.push({
      x: names.map(() => at), y: names.map((name) => state.s * unpacked[name][state.m][at]),
      mode: "markers", marker: { color: COLOURS, size: 9 }, name: "at theta", showlegend: false,
    });
    const turn = 180 - margin * 180 / Math.PI;
    Plotly.react(curves, traces, {
      ...curves.layout,
      xaxis: { title: { text: "theta, angle to the weight (degrees)" }, range: [0, 180], dtick: 30 },
      yaxis: { title: { text: "logit" }, range: [-1.15 * state.s, 1.05 * state.s] },
      shapes: [{ type: "rect", x0: turn, x1: 180, yref: "paper", y0: 0, y1: 1, fillcolor: "#D55E00", opacity: 0.1,
        line: { width: 0 } }],
      annotations: [{ x: turn, y: 1, yref: "paper", text: "fallback beyond pi - m", showarrow: false, xanchor: "right",
        font: { color: "#D55E00", size: 11 } }],
    });
    const seen = Math.acos(Math.max(-1, Math.min(1, unpacked["ArcFace"][state.m][at]))) * 180 / Math.PI;
    const arrow = (angle, name, colour, radius) => ({
      type: "scatterpolar", mode: "lines+markers", r: [0, radius], theta: [0, angle], name, line: { color: colour, width: 3 },
      marker: { symbol: ["circle", "triangle-up"], size: 9, angleref: "previous" },
    });
    const beyond = at > turn;
    const traces2 = [arrow(0, "weight of the speaker", "#000000", 1), arrow(at, "embedding: theta", "#0072B2", 1)];
    if (!beyond) traces2.push(arrow(seen, "training sees: theta + m", "#E69F00", 0.85));
    Plotly.react(polar, traces2, {
      ...polar.layout, polar: { sector: [0, 180], radialaxis: { visible: false, range: [0, 1.05] }, angularaxis: { dtick: 30 } },
    });
    const plain = state.s * unpacked["NormFace"][state.m][at];
    const target = state.s * unpacked["ArcFace"][state.m][at];
    said.textContent = `At theta = ${at}° a margin of ${margin.toFixed(2)} rad lowers the target's logit from ` +
      `${plain.toFixed(2)} to ${target.toFixed(2)}` + (beyond ? " (the fallback: theta + m would be beyond 180°)." :
      `: training treats the embedding as if it stood at ${seen.toFixed(0)}°.`);
  }
  draw();
}
