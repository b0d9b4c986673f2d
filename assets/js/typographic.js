// The picture with a word on it, drawn as components/attack.py draws it; the word can be dragged, or moved by arrow keys.
unclip.posterValue = (file, [word, x, y, size, colour, label]) => ({ source: file?.url || "", word, x, y, size, colour, label });

unclip.poster = (element, props, watch, trigger) => {
  const SIDE = 512, SEEN = 64;
  let picture = null, source = "", moved = null;
  const draw = () => {
    const value = props.value || {};
    if (!value.source) {
      source = "";
      element.innerHTML = `<div class="poster"><p class="nothing">${unclip.t("typographic.empty")}</p></div>`;
      return;
    }
    if (!element.querySelector("canvas")) {
      element.innerHTML = `<div class="poster"><canvas width="${SIDE}" height="${SIDE}" tabindex="0" role="img"></canvas><small></small></div>`;
    }
    element.querySelector("small").textContent = unclip.t("typographic.drag");
    element.querySelector("canvas").setAttribute("aria-label", unclip.t("typographic.alt", { word: value.word || "" }));
    if (value.source !== source) {
      source = value.source;
      picture = new Image();
      picture.onload = paint;
      picture.src = source;
    }
    document.fonts.load("800 40px Pretendard", value.word || "a").then(paint);
  };
  const seen = () => { // the middle square at the size that CLIP sees
    const small = new OffscreenCanvas(SEEN, SEEN), context = small.getContext("2d");
    const side = Math.min(picture.naturalWidth, picture.naturalHeight);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SEEN, SEEN);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, (picture.naturalWidth - side) / 2, (picture.naturalHeight - side) / 2, side, side, 0, 0, SEEN, SEEN);
    return small;
  };
  const paint = () => {
    const canvas = element.querySelector("canvas");
    if (!canvas || !picture?.complete || !picture.naturalWidth) return;
    const { word, x, y, size, colour, label } = { ...props.value, ...moved }, context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(seen(), 0, 0, SIDE, SIDE);
    const text = (word || "").trim().replace(/\s+/g, " ");
    if (!text) return;
    const box = (px) => {
      context.font = `800 ${px}px Pretendard`;
      const m = context.measureText(text);
      return { left: -m.actualBoundingBoxLeft, right: m.actualBoundingBoxRight, top: -m.actualBoundingBoxAscent, bottom: m.actualBoundingBoxDescent };
    };
    let px = Math.round(size * SIDE), b = box(px);
    px = Math.max(8, Math.round(px * Math.min(1, (0.9 * SIDE) / Math.max(1, b.right - b.left))));
    b = box(px);
    const cx = x * SIDE, cy = y * SIDE;
    if (label) {
      const wide = (b.right - b.left) / 2 + 0.3 * px, high = (b.bottom - b.top) / 2 + 0.25 * px;
      context.beginPath();
      context.roundRect(cx - wide, cy - high, 2 * wide, 2 * high, 0.15 * px);
      context.fillStyle = "#fff";
      context.fill();
      context.lineWidth = 3;
      context.strokeStyle = "#c9c2b8";
      context.stroke();
    }
    context.fillStyle = (props.colours || {})[colour] || "#1b1822";
    context.fillText(text, cx - (b.left + b.right) / 2, cy - (b.top + b.bottom) / 2);
  };
  const place = (event) => {
    const box = element.querySelector("canvas").getBoundingClientRect(), share = (v, size) => Math.max(0, Math.min(1, v / size));
    moved = { x: share(event.clientX - box.left, box.width), y: share(event.clientY - box.top, box.height) };
    paint();
  };
  const settle = () => { if (moved) { trigger("moved", moved); setTimeout(() => { moved = null; }, 400); } };
  element.addEventListener("pointerdown", (event) => {
    if (event.target.tagName !== "CANVAS") return;
    event.target.setPointerCapture(event.pointerId);
    place(event);
  });
  element.addEventListener("pointermove", (event) => { if (event.target.tagName === "CANVAS" && event.buttons) place(event); });
  element.addEventListener("pointerup", (event) => { if (event.target.tagName === "CANVAS") settle(); });
  element.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.03, 0], ArrowRight: [0.03, 0], ArrowUp: [0, -0.03], ArrowDown: [0, 0.03] }[event.key];
    if (!step || event.target.tagName !== "CANVAS") return;
    event.preventDefault();
    const now = { ...props.value, ...moved }, held = (v) => Math.max(0, Math.min(1, v));
    moved = { x: held(now.x + step[0]), y: held(now.y + step[1]) };
    paint();
    settle();
  });
  watch("value", draw);
  unclip.onLanguage(draw)();
};

// Two bars for each class: CLIP's answer to the picture, and to the picture with the word.
unclip.bars = (element, props, watch) => {
  const { t, escape, say } = unclip;
  const draw = () => {
    const classes = (props.value || {}).classes || [];
    const most = (key) => classes.reduce((a, b) => (b[key] > a[key] ? b : a), classes[0] || {}).name;
    const bar = (share, kind) => `<i class="${kind}" style="width:${100 * share}%"></i><em>${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%</em>`;
    element.innerHTML = classes.length ? `<figure class="bars"><figcaption>${t("typographic.bars")}</figcaption>
      <ul class="legend"><li class="ink">${t("typographic.before")}</li><li class="coral">${t("typographic.after")}</li></ul>
      <dl>${classes.map((one) => `<dt class="${one.word ? "word" : ""}">${escape(one.name)}</dt>
        <dd class="${one.name === most("before") ? "most" : ""}">${bar(one.before, "ink")}</dd><dd class="${one.name === most("after") ? "most" : ""}">${bar(one.after, "coral")}</dd>`).join("")}</dl></figure>`
      : `<figure class="bars"><p class="nothing">${escape(say((props.value || {}).note) || t("typographic.no_bars"))}</p></figure>`;
  };
  watch("value", draw);
  unclip.onLanguage(draw)();
};
