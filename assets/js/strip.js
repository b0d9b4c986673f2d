// The pipeline strip: text -> CLIP -> prior -> z_i -> 64 -> 256 -> 1024, each cell lit with what it holds.
unclip.CELLS = ["text", "clip", "prior", "z_i", "decoder", "upsampler_256", "upsampler_1024"];

// An embedding's numbers (signed bytes in base64), and as a square of coloured cells: violet below zero, coral above.
unclip.numbers = (text) => Int8Array.from(atob(text), (byte) => byte.charCodeAt(0));
unclip.heat = (canvas, text) => {
  const values = unclip.numbers(text), side = Math.ceil(Math.sqrt(values.length));
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const dark = document.body.classList.contains("dark");
  const [ground, below, above] = dark ? [[30, 28, 38], [134, 112, 255], [255, 138, 92]] : [[246, 243, 238], [92, 64, 232], [240, 84, 46]];
  const pixels = context.createImageData(side, side);
  values.forEach((value, i) => {
    const amount = Math.abs(value) / 127, colour = value < 0 ? below : above;
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = ground[c] + amount * (colour[c] - ground[c]);
    pixels.data[4 * i + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
};

// What a cell shows before anything has happened.
unclip.GLYPHS = { text: "Aa", clip: "z<sub>t</sub>", prior: "P(z|y)", z_i: "z<sub>i</sub>", decoder: "64²", upsampler_256: "256²", upsampler_1024: "1024²" };

// The strip as it waits for its turn: everything dark but what can never be lit.
unclip.waiting = (value) => {
  unclip.stopping = false;
  const cells = Object.fromEntries(Object.entries((value || {}).cells || {}).map(([name, cell]) =>
    [name, { state: cell.state === "missing" ? "missing" : "idle", stand_in: cell.stand_in }]));
  return { phase: "running", cells };
};

// Stop counts at once: what of the run is still on its way no longer lights the strip, and the end that Gradio reports of
// a run that was cancelled, which is failure, is none.
unclip.stopRun = (value) => {
  unclip.stopping = true;
  return { ...value, phase: "stopped" };
};
unclip.endRun = (value) => ({ ...value, phase: unclip.stopping ? "stopped" : "failed" });

unclip.strip = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape;
  let looked = null;
  const phaseOf = ({ phase }) => (phase === "running" && unclip.stopping ? "stopped" : phase || "idle");
  // One line that says what the stage under the pointer, or the one at work, does.
  const explain = () => {
    const cells = (props.value || {}).cells || {}, phase = phaseOf(props.value || {});
    const at = looked || (phase === "running" && unclip.CELLS.findLast((name) => (cells[name] || {}).state === "on"));
    element.querySelector(".explain").textContent = at ? t("strip." + at + ".info") : t(phase === "stopped" ? "strip.stopped" : "strip.hint");
  };
  const look = (event) => { looked = event.target.closest?.("li.cell")?.dataset.stage || null; explain(); };
  for (const kind of ["pointerover", "focusin", "click"]) element.addEventListener(kind, look);
  for (const kind of ["pointerleave", "focusout"]) element.addEventListener(kind, () => { looked = null; explain(); });
  const art = (name, cell) => {
    if (cell.state === "missing") return `<span class="absent">${t("app.pack_missing")}</span>`;
    if (cell.state === "skipped") return `<span class="absent">${t("strip.skipped")}</span>`;
    if (name === "text" && cell.text) return `<q>${escape(cell.text)}</q>`;
    if (cell.values) return `<canvas aria-hidden="true"></canvas>`;
    if (cell.picture) return `<img class="${name === "decoder" ? "pixels" : ""}" src="${cell.picture}" alt="${escape(t("strip." + name))}">`;
    if (cell.kind) return `<span class="glyph">${escape(t("prior." + cell.kind + ".short"))}</span>`;
    return `<span class="glyph">${unclip.GLYPHS[name]}</span>`;
  };
  const note = (name, cell) => {
    if (cell.state === "on" && cell.total) return t("strip.step", { index: cell.index, total: cell.total });
    if (cell.values) return t("strip.numbers", { name: name === "clip" ? "z_t" : "z_i", count: unclip.numbers(cell.values).length });
    if (cell.stand_in) return t("strip.stand_in_" + cell.stand_in);
    if (cell.state === "done" && cell.seconds != null) return t("badge.seconds", { seconds: cell.seconds.toFixed(cell.seconds < 9.95 ? 1 : 0) });
    return "";
  };
  const draw = () => {
    const value = props.value || {}, cells = value.cells || {};
    element.innerHTML = `<ol class="strip" data-phase="${phaseOf(value)}" aria-label="${t("strip.label")}">${unclip.CELLS.map((name) => {
      const cell = cells[name] || { state: "idle" };
      const share = cell.state === "done" ? 100 : cell.total ? (100 * cell.index) / cell.total : 0;
      return `<li class="cell ${cell.state}" data-stage="${name}" tabindex="0" aria-label="${escape(t("strip." + name) + ". " + t("strip." + name + ".info"))}">
        <div class="art">${art(name, cell)}</div>
        <div class="bar"><i style="width:${share}%"></i></div>
        <b>${t("strip." + name)}</b><small>${note(name, cell)}</small></li>`;
    }).join("")}</ol><p class="explain" aria-live="polite"></p>`;
    explain();
    element.querySelectorAll("canvas").forEach((canvas) => {
      unclip.heat(canvas, cells[canvas.closest("li").dataset.stage].values);
    });
  };
  watch("value", draw);
  unclip.onLanguage(draw)();
};

// Pictures large, with their steps to scrub through and a download each.
unclip.viewer = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape;
  let step = null, shown = null;
  const tile = (picture, i) => `
    <figure class="${picture.small ? "small" : ""}">
      <img class="${picture.pixels ? "pixels" : ""}" src="${picture.file ? picture.file.url : picture.src}" alt="${escape(picture.name || "")}">
      ${picture.file ? `<button class="tool save" data-save="${i}" title="${t("shelf.download")}">${unclip.icons.download}<span>PNG</span></button>` : ""}
    </figure>`;
  const draw = () => {
    const value = props.value || {};
    if (value.run !== shown) { shown = value.run; step = null; }
    const frames = value.frames || [];
    const frame = step === null || step >= frames.length ? null : frames[step];
    const pictures = frame ? frame.pictures.map((src) => ({ src, pixels: frame.pixels })) : value.pictures || [];
    element.innerHTML = `<div class="viewer" data-count="${pictures.length}" data-run="${escape(value.run || "")}">
      <div class="pictures">${pictures.map(tile).join("") || `<div class="waiting">${escape(value.note || t("viewer.waiting"))}</div>`}</div>
      ${value.badge ? unclip.badge(value.badge) : ""}
      ${frames.length > 1 ? `<div class="scrub"><input type="range" min="0" max="${frames.length}" value="${step ?? frames.length}" aria-label="${t("viewer.scrub")}">
        <output>${frame ? escape(t("viewer.frame", { stage: t("strip." + frame.stage), index: frame.index, total: frame.total })) : t("viewer.result")}</output></div>` : ""}
    </div>`;
    const range = element.querySelector("input[type=range]");
    if (range) range.oninput = () => {
      step = Number(range.value) >= frames.length ? null : Number(range.value);
      redrawPictures(frames);
    };
  };
  // While scrubbing, only the pictures and the caption change: the slider keeps its focus.
  const redrawPictures = (frames) => {
    const value = props.value, frame = step === null ? null : frames[step];
    element.querySelector(".pictures").innerHTML = (frame ? frame.pictures.map((src) => ({ src, pixels: frame.pixels })) : value.pictures).map(tile).join("");
    element.querySelector("output").textContent = frame
      ? t("viewer.frame", { stage: t("strip." + frame.stage), index: frame.index, total: frame.total }) : t("viewer.result");
  };
  element.addEventListener("click", (event) => {
    const save = event.target.closest("[data-save]");
    if (save) unclip.download(props.value.pictures[Number(save.dataset.save)].file);
    else if (event.target.matches("figure img")) unclip.enlarge(event.target);
  });
  watch("value", draw);
  unclip.onLanguage(draw)();
};

// Captions whose results are shipped: one click answers at once.
unclip.chips = (element, props, trigger) => {
  const draw = () => {
    element.innerHTML = `<div class="chips"><span>${unclip.t("create.examples")}</span>${(props.value || [])
      .filter((chip) => chip.lang === unclip.lang)
      .map((chip) => `<button class="chip" data-index="${chip.index}">${unclip.escape(chip.prompt)}</button>`).join("")}</div>`;
  };
  element.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) trigger("pick", { index: Number(chip.dataset.index) });
  });
  unclip.onLanguage(draw)();
};
