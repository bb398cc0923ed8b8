"use strict";
// What both pages share: elements, plots and sliders. Text from the data only ever goes through textContent.
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE = document.getElementById("page");
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"];
const DASHES = ["solid", "dash", "dashdot", "dot", "longdash"];

function element(tag, parent, text, properties) {
  const made = Object.assign(document.createElement(tag), properties || {});
  if (text !== undefined && text !== null) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function section(id, title, note) {
  const made = element("section", PAGE, null, { id });
  element("h2", made, title);
  if (note) element("p", made, note, { className: "note" });
  return made;
}

function plot(parent, traces, layout, tall) {
  const place = element("div", parent, null, { className: tall ? "plot tall" : "plot" });
  const common = {
    margin: { l: 55, r: 15, t: 40, b: 45 }, hovermode: "closest", font: { size: 12 }, autosize: true,
    legend: { orientation: "h", y: -0.25 },
  };
  // A small plot's tools would lie over its title.
  Plotly.newPlot(place, traces, { ...common, ...layout }, { responsive: true, displaylogo: false, displayModeBar: !!tall });
  return place;
}

// Plots that were drawn before their neighbours stood beside them are too wide.
function finish() {
  for (const place of document.querySelectorAll(".plot")) Plotly.Plots.resize(place);
  document.body.dataset.ready = "yes";
}

function slider(parent, name, low, high, step, value, show, change) {
  const label = element("label", parent, name);
  const input = element("input", label, null, { type: "range", min: low, max: high, step, value, id: "slider-" + name });
  const output = element("output", label, show(value));
  input.addEventListener("input", () => { output.textContent = show(+input.value); change(+input.value); });
  return input;
}

// Little-endian numbers in base64, as Python packs them.
function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Type(bytes.buffer);
}
