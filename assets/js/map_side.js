// Beside the map: the chosen point with its neighbours, and below it the path with the pictures of its walk.
unclip.map.card = (element, props, watch, trigger) => {
  const map = unclip.map, t = unclip.t, escape = unclip.escape;
  const decoded = ({ src, file, badge }) => `<figure><img src="${file ? file.url : src}" alt="${escape(t("map.decoded"))}">
    <figcaption>${t("map.decoded")}${badge ? ` · ${t("badge.seconds", { seconds: badge.seconds.toFixed(1) })}` : ""}</figcaption>
    ${file ? `<button class="tool" data-do="save">${unclip.icons.download}PNG</button>` : ""}</figure>`;
  const draw = () => {
    const card = props.value;
    map.card = card;
    element.innerHTML = !card ? `<div class="map-card empty"><p>${escape(t("map.hint"))}</p></div>` : `
      <div class="map-card" data-phase="${card.phase || "done"}" data-point="${escape(card.point)}">
        <header><h3>${escape(map.name(card.point))}</h3><span class="kind">${escape(map.kind(card.point))}</span></header>
        <div class="both"><figure>${map.thumb(card.point, 128)}<figcaption>${t(card.point.startsWith("p:") ? "map.drawn" : "map.point")}</figcaption></figure>
          ${card.decoded ? decoded(card.decoded) : `<figure class="waiting"><span>${escape(t("map.decode_info"))}</span></figure>`}</div>
        <button class="tool add" data-do="add">＋ ${t("map.add")}</button>
        <h4>${t("map.neighbours")}</h4>
        <ol class="near">${card.neighbours.map(({ point, cosine }) => `<li><button data-point="${escape(point)}" title="${escape(map.name(point))}">
          ${map.thumb(point, 52)}<small>${cosine.toFixed(2)}</small></button></li>`).join("")}</ol>
      </div>`;
  };
  element.addEventListener("click", (event) => {
    const near = event.target.closest("button[data-point]"), act = event.target.closest("[data-do]");
    if (near) { map.clicked = near.dataset.point; trigger("chosen"); }
    if (act && act.dataset.do === "add") map.addStop(props.value.point, trigger, "added");
    if (act && act.dataset.do === "save") unclip.download(props.value.decoded.file);
  });
  map.on((what) => { if (what === "data") draw(); });
  watch("value", () => { draw(); map.changed("card"); });
  unclip.onLanguage(draw)();
};

unclip.map.film = (element, props, watch, trigger) => {
  const map = unclip.map, t = unclip.t, escape = unclip.escape;
  let run = null;
  const stops = () => map.path.map((point, i) => `<li class="station">${map.thumb(point, 34)}<span>${escape(map.name(point))}</span>
    <button class="tool" data-remove="${i}" aria-label="${t("map.remove")}">×</button></li>`).join("");
  const cells = ({ frames = [], total = 0 }) => Array.from({ length: total }, (_, i) => frames[i]
    ? `<button class="cell" data-frame="${i}" aria-pressed="${i === map.cursor}"><img src="${frames[i].src}" alt="${t("map.frame", { index: i + 1, total })}"></button>`
    : `<span class="cell"></span>`).join("");
  const badge = ({ seconds, device, pack }) => `<p class="badge"><span class="dot live"></span>${[t("badge.live"), t("badge.seconds", { seconds: seconds.toFixed(1) }), device, pack].map(escape).join(" · ")}</p>`;
  const draw = () => {
    const film = props.value;
    map.film = film;
    if (film && film.run !== run) { run = film.run; map.cursor = null; }
    const done = film && film.frames.length > 1 && film.phase !== "running";
    element.innerHTML = `<div class="film" data-phase="${film ? film.phase || "done" : "idle"}">
      <header><h3>${t("map.path")}</h3><p>${escape(t("map.path_info"))}</p>${map.path.length ? `<button class="tool" data-do="clear">${unclip.icons.trash}${t("map.clear")}</button>` : ""}</header>
      ${map.path.length ? `<ol class="stops">${stops()}</ol>` : ""}
      ${film ? `<div class="cells">${cells(film)}</div>` : ""}
      ${done ? `<input type="range" min="0" max="${film.frames.length - 1}" value="${map.cursor ?? 0}" aria-label="${t("map.scrub")}">` : ""}
      ${film && film.badge ? badge(film.badge) : ""}</div>`;
  };
  const point = (i) => {
    map.cursor = i;
    element.querySelectorAll("[data-frame]").forEach((cell) => cell.setAttribute("aria-pressed", Number(cell.dataset.frame) === i));
    const range = element.querySelector("input[type=range]");
    if (range) range.value = i;
    map.changed("cursor");
  };
  element.addEventListener("click", (event) => {
    const frame = event.target.closest("[data-frame]"), remove = event.target.closest("[data-remove]"), clear = event.target.closest("[data-do=clear]");
    if (frame) point(Number(frame.dataset.frame));
    if (remove || clear) {
      map.path = clear ? [] : map.path.filter((_, i) => i !== Number(remove.dataset.remove));
      map.changed("path");
      trigger("edited");
    }
  });
  element.addEventListener("input", (event) => { if (event.target.type === "range") point(Number(event.target.value)); });
  map.on((what) => { if (["path", "data"].includes(what)) draw(); });
  watch("value", () => { draw(); map.changed("film"); });
  unclip.onLanguage(draw)();
};
