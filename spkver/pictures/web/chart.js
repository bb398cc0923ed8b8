"use strict";
// Charts as SVG, drawn at the width that they have, so that letters keep their size on a telephone.
//
// chart(parent, title).draw({
//   x, y: { label, range: [low, high], ticks: [[value, text]] (else round numbers), log },
//   lines: [{ x, y, colour, dash, name, width }], steps: [{ edges, heights, colour, name }],
//   points: [{ x, y, colour, shape, name, size }], rules: [{ x, y, name, colour, dash }], bands: [{ x: [low, high], y: [low, high], name }],
//   say: (x) => text   what the reading tells at a place; else the lines' values there
// })
const READABLE = 5;  // digits of a reading

function chart(parent, title, ratio = 0.62) {
  const figure = element("figure", parent, null, { tabIndex: 0, aria: { role: "group", roledescription: "chart" } });
  const caption = element("figcaption", figure, title);
  const read = element("output", figure, "", { aria: { live: "polite" } });
  const svg = drawn("svg", figure, { class: "chart", role: "img" });
  let spec = null, scale = null, at = null;

  function draw(given) {
    spec = given;
    if (spec.title) caption.textContent = spec.title;
    const summary = (spec.lines || []).filter((line) => line.name).map((line) => `${line.name}: ${extent(line.y)}`).join("; ");
    svg.setAttribute("aria-label", `${caption.textContent}. ${spec.x.label || ""} and ${spec.y.label || ""}. ${summary}`);
    redraw();
  }

  function redraw() {
    const width = Math.max(240, figure.clientWidth);
    const height = Math.round(Math.min(width * ratio, 560));
    const box = { left: 52, right: width - 12, top: 8, bottom: height - (spec.x.label ? 42 : 26) };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    scale = { x: scaled(spec.x, box.left, box.right), y: scaled(spec.y, box.bottom, box.top), box };
    const clip = "clip-" + (chart.count = (chart.count || 0) + 1);
    drawn("rect", drawn("clipPath", svg, { id: clip }), { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });
    for (const [value, text] of ticks(spec.x, (box.right - box.left) / 70)) {
      const x = scale.x(value);
      drawn("line", svg, { class: "grid", x1: x, x2: x, y1: box.top, y2: box.bottom });
      drawn("text", svg, { x, y: box.bottom + 15, "text-anchor": "middle" }, text);
    }
    for (const [value, text] of ticks(spec.y, (box.bottom - box.top) / 40)) {
      const y = scale.y(value);
      drawn("line", svg, { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y });
      drawn("text", svg, { x: box.left - 6, y: y + 4, "text-anchor": "end" }, text);
    }
    if (spec.x.label) drawn("text", svg, { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, spec.x.label);
    if (spec.y.label) drawn("text", svg, { transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.y.label);
    const inside = drawn("g", svg, { "clip-path": `url(#${clip})` });
    for (const band of spec.bands || []) {
      const [x0, x1] = (band.x || spec.x.range).map(scale.x), [y1, y0] = (band.y || spec.y.range).map(scale.y);
      const made = drawn("rect", inside, { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0), opacity: 0.15 });
      made.style.fill = band.colour || GREY;
      drawn("title", made, {}, band.name || "");
    }
    for (const { edges, heights, colour, name } of spec.steps || []) {
      let path = `M${scale.x(edges[0])} ${scale.y(0)}`;
      heights.forEach((value, index) => { path += `V${scale.y(value)}H${scale.x(edges[index + 1])}`; });
      const made = drawn("path", inside, { d: path + `V${scale.y(0)}Z`, "fill-opacity": 0.35 });
      made.style.fill = made.style.stroke = colour;
      drawn("title", made, {}, name);
    }
    for (const line of spec.lines || []) {
      let path = "", broken = true;
      for (let index = 0; index < line.x.length; index++) {
        if (line.y[index] == null || line.x[index] == null || (spec.y.log && line.y[index] <= 0)) { broken = true; continue; }
        path += `${broken ? "M" : "L"}${scale.x(line.x[index]).toFixed(1)} ${scale.y(line.y[index]).toFixed(1)}`;
        broken = false;
      }
      drawn("path", inside, { d: path, fill: "none", "stroke-width": line.width || 1.8, "stroke-dasharray": line.dash || "" }).style.stroke = line.colour;
    }
    for (const rule of spec.rules || []) {
      const across = rule.x === undefined;
      const place = across ? scale.y(rule.y) : scale.x(rule.x);
      const ends = across ? { x1: box.left, x2: box.right, y1: place, y2: place } : { x1: place, x2: place, y1: box.top, y2: box.bottom };
      drawn("line", inside, { ...ends, "stroke-width": 1.6, "stroke-dasharray": rule.dash || "5 4", class: "rule" }).style.stroke = rule.colour || colourOf(3);
      if (rule.name) drawn("text", svg, { x: Math.min(place + 4, box.right - 7 * rule.name.length), y: box.top + 12 }, rule.name);
    }
    for (const point of spec.points || []) {
      const [x, y] = [scale.x(point.x), scale.y(point.y)];
      const made = drawn("path", inside, { d: SHAPES[point.shape || 0](x, y, point.size || 5), "stroke-width": 2, class: "point" });
      made.style.stroke = point.colour;
      made.style.fill = point.hollow ? "var(--ground)" : point.colour;
      drawn("title", made, {}, point.name || "");
    }
    drawn("path", svg, { class: "frame", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` });
    if (at !== null) mark();
  }

  function mark() {
    svg.querySelector(".cursor")?.remove();
    const x = scale.x(at);
    drawn("line", svg, { class: "cursor frame", x1: x, x2: x, y1: scale.box.top, y2: scale.box.bottom, "stroke-dasharray": "1 3" });
    read.textContent = spec.say ? spec.say(at) : saidAt(spec, at);
  }

  function readAt(value) {
    const [low, high] = spec.x.range;
    at = Math.max(low, Math.min(high, value));
    mark();
  }

  svg.addEventListener("pointermove", (event) => {
    const rect = svg.getBoundingClientRect();
    const share = ((event.clientX - rect.left) * svg.viewBox.baseVal.width / rect.width - scale.box.left) / (scale.box.right - scale.box.left);
    readAt(spec.x.range[0] + share * (spec.x.range[1] - spec.x.range[0]));
  });
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target !== figure) return;
    event.preventDefault();
    const [low, high] = spec.x.range;
    const size = spec.step || (high - low) / 50;
    readAt((at === null ? (step > 0 ? low - size : high + size) : at) + step * size);
  });
  let width = 0;
  new ResizeObserver(() => { if (spec && figure.clientWidth !== width) { width = figure.clientWidth; redraw(); } }).observe(figure);
  return { figure, svg, draw };
}

function saidAt(spec, at) {
  const near = (line) => line.x.reduce((best, x, index) => Math.abs(x - at) < Math.abs(line.x[best] - at) ? index : best, 0);
  const lines = (spec.lines || []).filter((line) => line.name && line.x.length);
  if (!lines.length) return "";
  const found = lines.map((line) => [line, near(line)]);
  const x = found[0][0].x[found[0][1]];
  const values = found.map(([line, index]) => `${lines.length > 1 ? line.name + " " : ""}${short(line.y[index])}`);
  return `${spec.x.label || "at"} ${short(x)}: ${values.join(", ")}`;
}

const short = (value) => value == null ? "-" : String(+value.toPrecision(READABLE - 1));

function extent(values) {
  const known = values.filter((value) => value != null);
  return known.length ? `from ${short(known[0])} to ${short(known[known.length - 1])}` : "no values";
}

function scaled(axis, start, end) {
  const of = axis.log ? (value) => Math.log10(Math.max(value, 1e-300)) : (value) => value;
  const [low, high] = axis.range.map(of);
  return (value) => start + (end - start) * (of(value) - low) / ((high - low) || 1);
}

function ticks(axis, most) {
  const [low, high] = axis.range;
  if (axis.ticks) return axis.ticks.filter(([value]) => value >= low && value <= high);
  if (axis.log) {
    const found = [];
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) found.push([10 ** power, power < -3 || power > 3 ? `1e${power}` : String(10 ** power)]);
    return found;
  }
  const rough = (high - low) / Math.max(2, most), ten = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * ten).find((size) => size >= rough && (!axis.whole || size % 1 === 0)) || 1;
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push([value, String(+value.toPrecision(6))]);
  return found;
}

// From 0, or from what is there, with a little room above.
function rangeOf(series, fromZero = true) {
  const values = series.flat().filter((value) => value != null);
  const low = fromZero ? Math.min(0, ...values) : Math.min(...values), high = Math.max(...values);
  const room = 0.05 * (high - low) || 1;
  return [fromZero && low === 0 ? 0 : low - room, high + room];
}

const polygon = (x, y, size, angles) => "M" + angles.map((angle) => `${x + size * Math.sin(angle)} ${y - size * Math.cos(angle)}`).join("L") + "Z";
const around = (n, from = 0) => Array.from({ length: n }, (_, index) => from + 2 * Math.PI * index / n);
const SHAPES = [
  (x, y, s) => `M${x - s} ${y}a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0Z`,
  (x, y, s) => polygon(x, y, 1.3 * s, around(3)),
  (x, y, s) => polygon(x, y, 1.3 * s, around(3, Math.PI)),
  (x, y, s) => polygon(x, y, 1.25 * s, around(4, Math.PI / 4)),
  (x, y, s) => polygon(x, y, 1.25 * s, around(4)),
  (x, y, s) => polygon(x, y, 1.2 * s, around(5)),
  (x, y, s) => `M${x - s} ${y - s / 3}H${x - s / 3}V${y - s}H${x + s / 3}V${y - s / 3}H${x + s}V${y + s / 3}H${x + s / 3}V${y + s}H${x - s / 3}V${y + s / 3}H${x - s}Z`,
  (x, y, s) => "M" + around(10).map((angle, index) => `${x + (index % 2 ? 0.55 : 1.3) * s * Math.sin(angle)} ${y - (index % 2 ? 0.55 : 1.3) * s * Math.cos(angle)}`).join("L") + "Z",
];
