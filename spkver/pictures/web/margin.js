"use strict";
// The margin explorer. All curves are tables that Python took from the heads, a row for each margin.
function marginExplorer(parent, tables) {
  const degrees = tables.degrees;
  const curves = Object.entries(tables.curves).map(([name, text], index) => {
    const values = unpack(text, Float32Array);
    return { name, colour: colourOf(index), dash: DASHES[index], rows: tables.margins.map((_, row) => values.subarray(row * degrees.length, (row + 1) * degrees.length)) };
  });
  const named = (name) => curves.find((curve) => curve.name === name).rows;
  const state = { theta: 40, m: tables.margins.indexOf(tables.start.margin), s: tables.start.scale, between: 90 };
  const controls = element("div", parent, null, { className: "controls" });
  const control = (key, name, low, high, show) => slider(controls, "slider-" + key, name, low, high, 1, state[key], show, (value) => { state[key] = value; draw(); });
  control("theta", "theta", 0, 180, (v) => v + "°");
  control("m", "margin m", 0, tables.margins.length - 1, (v) => tables.margins[v].toFixed(2) + " rad");
  control("s", "scale s", 1, 64, String);
  control("between", "angle between two speakers", 20, 180, (v) => v + "°");
  const said = element("p", parent, "", { className: "said", id: "margin-said", aria: { live: "polite" } });
  const two = element("div", parent, null, { className: "two" });
  const left = element("div", two), right = element("div", two);
  const logits = chart(left, "Logits over theta");
  const made = table(left, "logits at theta", [["head", ""], ["logit at theta", "number"]]);
  const cells = curves.map((curve) => {
    const line = element("tr", made.body), name = element("td", line);
    swatch(name, curve.colour, curve.dash);
    name.append(" " + curve.name);
    return element("td", line, "", { className: "number" });
  });
  const figure = element("figure", right);
  element("figcaption", figure, "The decision boundary in training, and the angle that it sees");
  const circle = drawn("svg", figure, { class: "chart circle", viewBox: "-130 -130 260 260", role: "img" });
  const legend = element("ul", right, null, { className: "legend" });
  for (const [colour, dash, name] of [["var(--text)", "4 3", "an embedding at theta"], [colourOf(3), "2 3", "where training sees it: theta + m"]]) {
    const item = element("li", legend);
    swatch(item, colour, dash);
    item.append(name);
  }
  const boundarySaid = element("p", right, "", { id: "boundary-said", className: "note", aria: { live: "polite" } });

  // From the target's weight: where its penalised logit falls below the other speaker's.
  function boundary() {
    const row = named("ArcFace")[state.m];
    for (let angle = 0; angle < state.between; angle += 0.25) {
      const low = Math.floor(angle), own = row[low] + (angle - low) * (row[Math.min(180, low + 1)] - row[low]);
      if (own <= Math.cos((state.between - angle) * Math.PI / 180)) return angle;
    }
    return state.between;
  }

  const spot = (angle, radius) => [radius * Math.cos(angle * Math.PI / 180), -radius * Math.sin(angle * Math.PI / 180)];
  function sector(from, to, colour, opacity) {
    const [x0, y0] = spot(from, 100), [x1, y1] = spot(to, 100);
    drawn("path", circle, { d: `M0 0L${x0} ${y0}A100 100 0 ${to - from > 180 ? 1 : 0} 0 ${x1} ${y1}Z`, opacity }).style.fill = colour;
  }
  function arrow(angle, length, colour, name, dash) {
    const [x, y] = spot(angle, length), [tx, ty] = spot(angle, length + 16);
    drawn("line", circle, { x1: 0, y1: 0, x2: x, y2: y, "stroke-width": 3, "stroke-dasharray": dash || "" }).style.stroke = colour;
    drawn("circle", circle, { cx: x, cy: y, r: 4 }).style.fill = colour;
    if (name) drawn("text", circle, { x: tx, y: ty + 4, "text-anchor": "middle" }, name);
  }

  function draw() {
    const margin = tables.margins[state.m], at = state.theta, turn = 180 - margin * 180 / Math.PI;
    logits.draw({
      x: { label: "theta, angle to the speaker's weight (degrees)", range: [0, 180], ticks: [0, 30, 60, 90, 120, 150, 180].map((v) => [v, String(v)]) },
      y: { label: "logit", range: [-1.15 * state.s, 1.05 * state.s] }, step: 1,
      lines: curves.map((curve) => ({ ...curve, x: degrees, y: Array.from(curve.rows[state.m], (value) => state.s * value) })),
      bands: margin ? [{ x: [turn, 180], colour: colourOf(3), name: "beyond pi - m: the fallback" }] : [],
      rules: [{ x: at, name: at + "°" }],
      // Rings of different sizes, so that none hides another.
      points: curves.map((curve, index) => ({ x: at, y: state.s * curve.rows[state.m][at], colour: curve.colour, size: 3 + 3 * index, hollow: true, name: curve.name })).reverse(),
    });
    cells.forEach((cell, index) => { cell.textContent = (state.s * curves[index].rows[state.m][at]).toFixed(2); });
    const beyond = at > turn, plain = state.s * named("NormFace")[0][at], target = state.s * named("ArcFace")[state.m][at];
    const seen = Math.acos(Math.max(-1, Math.min(1, named("ArcFace")[state.m][at]))) * 180 / Math.PI;
    said.textContent = `At theta = ${at}° a margin of ${margin.toFixed(2)} rad changes the target's logit from ${plain.toFixed(2)} to ${target.toFixed(2)}` +
      (beyond ? " (the fallback: theta + m would be beyond 180°)." : `: training treats the embedding as if it stood at ${seen.toFixed(0)}°.`);

    const edge = boundary(), gap = state.between - 2 * edge;
    circle.replaceChildren();
    drawn("circle", circle, { r: 100, class: "frame" });
    // Beyond the weights the boundary goes round the other way, at the same distance from each.
    const far = Math.min(180, (360 - state.between) / 2 - Math.max(0, gap) / 2);
    sector(-far, edge, colourOf(0), 0.28);
    sector(state.between - edge, state.between + far, colourOf(1), 0.28);
    arrow(0, 100, colourOf(0), "w1");
    arrow(state.between, 100, colourOf(1), "w2");
    arrow(at, 84, "var(--text)", "", "4 3");
    if (!beyond && margin) arrow(seen, 66, colourOf(3), "", "2 3");
    const text = gap > 0.4 ? `Between two speakers ${state.between}° apart a gap of ${gap.toFixed(0)}° belongs to neither: each has to be within ${edge.toFixed(0)}° of its weight.`
      : `Between two speakers ${state.between}° apart the boundary is half-way, at ${edge.toFixed(0)}°: without a margin there is no gap.`;
    boundarySaid.textContent = text;
    circle.setAttribute("aria-label", text);
  }
  draw();
}
