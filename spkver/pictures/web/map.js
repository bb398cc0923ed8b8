"use strict";
// The embeddings in the plane over the epochs, on a canvas: thousands of points move smoothly there.
const MAP_SECONDS = 8;
const MAPS = [];
const mapOf = (index) => MAPS[index];  // what is drawn of a run: places in pixels, the chosen point

function embeddingMap(parent, run, index) {
  const map = run.map, n = map.n, last = map.epochs.length - 1;
  const places = unpack(map.places, Uint16Array), near = unpack(map.nearest, Uint32Array), cosines = unpack(map.cosines, Float32Array);
  const n_near = near.length / n;
  const names = [...new Set(map.speakers)];
  const of = map.speakers.map((speaker) => names.indexOf(speaker));
  const hollow = names.map((name) => map.held_out[map.speakers.indexOf(name)]);
  const state = { at: last, chosen: null, speakers: new Set(), timer: null };
  const show = (at) => at === 0 ? "before training" : `epoch ${(map.epochs[Math.floor(at)] + (at % 1) * ((map.epochs[Math.ceil(at)] ?? 0) - map.epochs[Math.floor(at)])).toFixed(1)}`;

  const controls = element("div", parent, null, { className: "controls" });
  const { input, set } = slider(controls, "epoch-slider-" + index, "epoch", 0, last, 0.02, last, show, (at) => { state.at = at; draw(); });
  const play = button(controls, "▶ play", () => state.timer ? pause() : start(), { id: "play-" + index });
  const label = element("label", controls, "speaker");
  const search = element("input", label, null, { type: "search", id: "search-" + index, placeholder: "part of a name" });
  const found = element("output", controls, "", { id: "found-" + index, aria: { live: "polite" } });
  const grid = element("div", parent, null, { className: "map" });
  const canvas = element("canvas", grid, null, { id: "map-canvas-" + index, tabIndex: 0, aria: { role: "application", label: `Map of the embeddings of ${run.name}: arrow keys go from utterance to utterance, up and down from speaker to speaker, Enter plays` } });
  const side = element("div", grid);
  element("strong", side, `${names.length} speakers`);
  const legend = element("div", side, null, { className: "speakers", aria: { role: "group", label: "speakers, to be shown alone" } });
  const told = element("div", side, null, { id: "told-" + index, aria: { live: "polite" } });
  element("p", told, "Choose a point: a click, or the arrow keys on the map.", { className: "note" });

  const buttons = names.map((name, speaker) => {
    const made = button(legend, "", () => {
      state.speakers.has(speaker) ? state.speakers.delete(speaker) : state.speakers.add(speaker);
      shown();
    }, { aria: { pressed: "false" } });
    const sample = element("canvas", made, null, { width: 28, height: 28, aria: { hidden: "true" } });
    made.append(" " + name + (hollow[speaker] ? " (held out)" : ""));
    return { made, sample };
  });

  function shown() {
    buttons.forEach(({ made }, speaker) => made.setAttribute("aria-pressed", state.speakers.has(speaker)));
    draw();
  }
  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    state.speakers = new Set([...names.keys()].filter((speaker) => text && names[speaker].toLowerCase().includes(text)));
    buttons.forEach(({ made }, speaker) => { made.hidden = Boolean(text) && !state.speakers.has(speaker); });
    found.textContent = text ? `${state.speakers.size} of ${names.length} speakers` : "";
    shown();
  });

  function start() {
    const from = state.at >= last ? 0 : state.at, began = performance.now();
    const turn = (now) => {
      const at = Math.min(last, from + (now - began) / 1000 * last / MAP_SECONDS);
      set(at);
      if (at < last) state.timer = requestAnimationFrame(turn); else pause();
    };
    play.textContent = "⏸ pause";
    state.timer = requestAnimationFrame(turn);
  }
  function pause() {
    cancelAnimationFrame(state.timer);
    state.timer = null;
    play.textContent = "▶ play";
  }

  // One scale for both axes, so that distances are what they are.
  function placesAt() {
    const size = canvas.width, room = 0.05 * size;
    const span = Math.max(map.high[0] - map.low[0], map.high[1] - map.low[1]) || 1;
    const [before, after, part] = [Math.floor(state.at), Math.ceil(state.at), state.at % 1];
    const along = (which, point) => {
      const value = (snapshot) => places[(snapshot * n + point) * 2 + which] / 65535;
      const here = value(before) + part * (value(after) - value(before));
      const own = (map.high[which] - map.low[which]) / span;
      return room + (size - 2 * room) * (0.5 + (here - 0.5) * own * (which ? -1 : 1));
    };
    return Array.from({ length: n }, (_, point) => [along(0, point), along(1, point)]);
  }

  function draw() {
    const size = Math.round(Math.min(canvas.clientWidth, 760) * devicePixelRatio);
    if (!size) return;
    if (canvas.width !== size || canvas.height !== size) canvas.width = canvas.height = size;
    const style = getComputedStyle(document.documentElement), paper = canvas.getContext("2d");
    const colours = names.map((_, speaker) => style.getPropertyValue(`--c${speaker % 7}`));
    const radius = (n > 1500 ? 2.5 : 4.2) * devicePixelRatio;
    const mark = (on, x, y, speaker, radius) => {
      on.strokeStyle = on.fillStyle = colours[speaker];
      const shape = new Path2D(SHAPES[speaker % SHAPES.length](x, y, radius));
      hollow[speaker] ? on.stroke(shape) : on.fill(shape);
    };
    paper.clearRect(0, 0, size, size);
    paper.lineWidth = 1.4 * devicePixelRatio;
    state.places = placesAt();
    const faint = (speaker) => state.speakers.size > 0 && !state.speakers.has(speaker);
    for (const pass of [true, false]) state.places.forEach(([x, y], point) => {
      if (faint(of[point]) !== pass) return;
      paper.globalAlpha = pass ? 0.12 : 0.9;
      mark(paper, x, y, of[point], radius);
    });
    paper.globalAlpha = 1;
    if (state.chosen !== null) {
      paper.strokeStyle = style.getPropertyValue("--text");
      paper.beginPath();
      for (const other of near.subarray(state.chosen * n_near, (state.chosen + 1) * n_near)) { paper.moveTo(...state.places[state.chosen]); paper.lineTo(...state.places[other]); }
      paper.stroke();
      paper.lineWidth = 2.5 * devicePixelRatio;
      paper.stroke(new Path2D(SHAPES[0](...state.places[state.chosen], 2.2 * radius)));
    }
    if (!draw.sampled || draw.sampled !== colours.join()) {
      draw.sampled = colours.join();
      buttons.forEach(({ sample }, speaker) => {
        const on = sample.getContext("2d");
        on.clearRect(0, 0, 28, 28);
        on.lineWidth = 2.5;
        mark(on, 14, 14, speaker, 9);
      });
    }
  }

  function choose(point, listen) {
    state.chosen = point;
    told.replaceChildren();
    const line = element("p", told, null);
    element("strong", line, map.utts[point]);
    line.append(` of speaker ${map.speakers[point]} (${map.held_out[point] ? "held out of the training" : "in the training"}). `);
    playable(line, `${run.data}:${map.utts[point]}`, map.utts[point]);
    element("span", told, "Nearest by cosine after the last epoch:");
    const list = element("ol", told, null, { className: "near" });
    for (let rank = 0; rank < n_near; rank++) {
      const other = near[point * n_near + rank];
      const item = element("li", list);
      button(item, map.utts[other], () => {
        choose(other);
        told.querySelector(".near button").focus();  // the list is another now, and the keyboard would be lost
      });
      item.append(` ${cosines[point * n_near + rank].toFixed(2)}` + (of[other] === of[point] ? "" : `, of ${map.speakers[other]}`));
    }
    if (listen) line.querySelector("button")?.click();
    draw();
  }
  canvas.addEventListener("click", (event) => {
    const scale = canvas.width / canvas.clientWidth;
    const [x, y] = [event.offsetX * scale, event.offsetY * scale];
    const far = (point) => Math.hypot(state.places[point][0] - x, state.places[point][1] - y);
    choose(state.places.reduce((best, _, point) => far(point) < far(best) ? point : best, 0), true);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && state.chosen !== null) told.querySelector("p button")?.click();
    else if (move) {
      event.preventDefault();
      let point = state.chosen ?? (move > 0 ? n - 1 : 0);
      const before = of[point];
      do point = (point + move + n) % n; while (event.key.match(/Up|Down/) && state.chosen !== null && of[point] === before && names.length > 1);
      choose(point);
    }
  });
  MAPS[index] = state;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
}
