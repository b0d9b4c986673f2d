// Frames to scrub through, all in the browser: a line with a slider and a filmstrip, or a pad of rows and columns.
unclip.player = (element, props, watch) => {
  const { t, escape, say } = unclip;
  let at = 0, run = null, playing = null, direction = 1, touched = false;
  const cells = () => (props.value?.rows || []).flatMap((row) => row.cells);
  const source = (cell) => (cell?.file ? cell.file.url : cell?.src);
  const side = () => props.value?.rows?.[0]?.cells.length || 1;
  const isPad = () => (props.value?.rows || []).length > 1;

  const show = (index) => {
    const all = cells();
    at = Math.max(0, Math.min(all.length - 1, index));
    const cell = all[at], picture = element.querySelector(".stage img");
    if (!picture || !cell) return;
    picture.src = source(cell) || picture.src;
    picture.alt = escape(say(cell.name));
    element.querySelector("output").textContent = say(cell.name);
    const range = element.querySelector("input[type=range]");
    if (range) range.value = at;
    element.querySelectorAll("[data-frame]").forEach((one) => one.setAttribute("aria-current", Number(one.dataset.frame) === at));
  };
  const stop = () => { clearInterval(playing); playing = null; label(); };
  const label = () => {
    const button = element.querySelector("[data-do=play]");
    if (button) button.innerHTML = `${playing ? unclip.icons.pause : unclip.icons.play}<span>${t(playing ? "interpolate.pause" : "interpolate.play")}</span>`;
  };
  const play = () => {
    playing = setInterval(() => {
      const last = cells().length - 1;
      if (!element.isConnected || !element.offsetParent) return; // another tab is in view
      if (at >= last) direction = -1;
      if (at <= 0) direction = 1;
      show(at + direction);
    }, 140);
    label();
  };

  const draw = () => {
    const value = props.value || {}, all = cells();
    if (value.run !== run) { run = value.run; at = 0; touched = false; clearInterval(playing); playing = null; }
    if (!all.length) {
      element.innerHTML = `<div class="player" data-phase="${value.phase}"><p class="nothing">${escape(say(value.note))}</p></div>`;
      return;
    }
    if (!touched && value.phase === "running") at = Math.max(0, all.findLastIndex((cell) => cell && (source(cell))));
    const ends = value.ends || [];
    const thumb = (cell, i) => `<button type="button" data-frame="${i}" aria-label="${escape(cell ? say(cell.name) : "")}" ${source(cell) ? "" : "disabled"}>${
      source(cell) ? `<img src="${source(cell)}" alt="">` : ""}${cell?.share != null && cell.share < 1 ? `<i class="share" style="width:${100 * cell.share}%"></i>` : ""}</button>`;
    const names = ends.map((name, i) => `<span class="end end-${i}">${escape(name)}</span>`).join("");
    const strip = isPad()
      ? `<div class="pad-frame">${names}<div class="pad" tabindex="0" role="application" aria-label="${t("interpolate.pad_help")}" style="--side:${side()}">${all.map(thumb).join("")}</div><small>${t("interpolate.pad_help")}</small></div>`
      : `<div class="ends">${names}</div><div class="filmstrip" style="--frames:${all.length}">${all.map(thumb).join("")}</div>`;
    element.innerHTML = `<div class="player ${isPad() ? "is-pad" : ""}" data-phase="${value.phase}" aria-busy="${value.phase === "running"}">
      <div class="stage"><img src="${source(all[at]) || ""}" alt="">
        ${all[at]?.file ? `<button type="button" class="tool save" data-do="save" title="${t("shelf.download")}">${unclip.icons.download}<span>PNG</span></button>` : ""}</div>
      <div class="desk">
        <div class="transport"><button type="button" class="tool" data-do="play"></button>
          ${isPad() ? "" : `<input type="range" min="0" max="${all.length - 1}" value="${at}" aria-label="${t("interpolate.scrub")}">`}<output></output></div>
        ${strip}</div>
      ${value.badge ? unclip.badge(value.badge) : ""}</div>`;
    label();
    show(at);
    const range = element.querySelector("input[type=range]");
    if (range) range.oninput = () => { touched = true; if (playing) stop(); show(Number(range.value)); };
    if (value.phase === "done" && !touched && !playing && !matchMedia("(prefers-reduced-motion: reduce)").matches && !isPad()) { at = 0; show(0); play(); }
  };
  element.addEventListener("click", (event) => {
    const frame = event.target.closest("[data-frame]"), what = event.target.closest("[data-do]")?.dataset.do;
    if (frame) { touched = true; if (playing) stop(); show(Number(frame.dataset.frame)); }
    if (what === "play") { touched = true; playing ? stop() : play(); }
    if (what === "save") unclip.download(cells()[at].file);
  });
  element.addEventListener("pointermove", (event) => { // the pad follows the pointer; a finger drags
    const pad = event.target.closest(".pad");
    if (!pad || (event.pointerType !== "mouse" && event.buttons === 0)) return;
    const box = pad.getBoundingClientRect(), n = side(), place = (v, size) => Math.max(0, Math.min(n - 1, Math.floor((n * v) / size)));
    touched = true;
    if (playing) stop();
    show(place(event.clientY - box.top, box.height) * n + place(event.clientX - box.left, box.width));
  });
  element.addEventListener("keydown", (event) => {
    const n = side(), step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n, ArrowDown: n }[event.key];
    if (!step || !event.target.closest(".pad")) return;
    event.preventDefault();
    touched = true;
    show(at + step);
  });
  watch("value", draw);
  unclip.onLanguage(draw)();
};
