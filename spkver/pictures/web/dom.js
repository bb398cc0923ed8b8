"use strict";
// What all pages share: elements, sections, sliders, sound. Text from the data only ever goes through textContent.
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE = document.getElementById("page");
const CONTENTS = element("ul", document.getElementById("contents"));
const DASHES = ["", "7 4", "9 3 2 3", "2 3", "12 3", "9 3 2 3 2 3", "4 2"];
const GREY = "var(--grey)";
const colourOf = (index) => `var(--c${index % 7})`;

function element(tag, parent, text, properties) {
  const { aria = {}, ...others } = properties || {};
  const made = Object.assign(document.createElement(tag), others);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(name === "role" ? name : "aria-" + name, value);
  if (text !== undefined && text !== null) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function section(id, title, note) {
  element("a", element("li", CONTENTS), title, { href: "#" + id });
  const made = element("section", PAGE, null, { id, aria: { labelledby: id + "-title" } });
  element("h2", made, title, { id: id + "-title" });
  if (note) element("p", made, note, { className: "note" });
  return made;
}

function slider(parent, id, name, low, high, step, value, show, change) {
  const label = element("label", parent, name);
  const input = element("input", label, null, { type: "range", id, min: low, max: high, step, value });
  const output = element("output", label, "", { htmlFor: id });
  const set = (to) => { input.value = to; told(); };
  const told = () => {
    change(+input.value);
    output.textContent = show(+input.value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", told);
  output.textContent = show(value);
  return { input, set };
}

function button(parent, text, act, properties) {
  const made = element("button", parent, text, { type: "button", ...properties });
  made.addEventListener("click", () => act(made));
  return made;
}

// A table in a box of its own that scrolls, also by the keyboard.
function table(parent, name, heads) {
  const box = element("div", parent, null, { className: "scroll", tabIndex: 0, aria: { role: "region", label: name } });
  const made = element("table", box);
  const line = element("tr", element("thead", made));
  for (const [head, kind] of heads) element("th", line, head, { scope: "col", className: kind || "" });
  return { head: line, body: element("tbody", made) };
}

// The sample of a line, which names a run or a system to every chart.
function swatch(parent, colour, dash) {
  const made = drawn("svg", parent, { class: "swatch", viewBox: "0 0 30 12", "aria-hidden": "true" });
  drawn("line", made, { x1: 0, x2: 30, y1: 6, y2: 6, "stroke-width": 2.5, "stroke-dasharray": dash || "" }).style.stroke = colour;
  return made;
}

function drawn(tag, parent, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

// Little-endian numbers in base64, as Python packs them.
function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Type(bytes.buffer);
}

// A record of an earlier version may lack a figure.
const percent = (value, digits = 2) => value == null ? "-" : (100 * value).toFixed(digits) + " %";
const decimals = (value, digits = 3) => value == null ? "-" : value.toFixed(digits);
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(100 * value).toFixed(2);

const HEARD = element("audio", document.body, null, { id: "heard" });
const hasSound = (folder, utt) => `${folder}:${utt}` in (DATA.clips || {});
function playable(parent, key, name) {
  const clip = (DATA.clips || {})[key];
  if (!clip) return null;
  return button(parent, "▶ " + name, () => {
    HEARD.src = "data:audio/ogg;base64," + clip;
    HEARD.play().catch(() => {}); // where a browser forbids it there is nothing to do
  }, { aria: { label: "play " + name } });
}

function finish() {
  const links = [...CONTENTS.querySelectorAll("a")];
  const watch = new IntersectionObserver((seen) => {
    const now = seen.find((entry) => entry.isIntersecting);
    if (now) for (const link of links) {
      if (link.hash === "#" + now.target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const part of document.querySelectorAll("section")) watch.observe(part);
  // On paper nothing can be unfolded.
  window.addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
  document.body.dataset.ready = "yes";
}
