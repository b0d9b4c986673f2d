// The map of CLIP space: what its parts share. Points are short texts: "p:12" a corpus picture, "u:umap2:x,y" a place,
// "s:id" a picture of the shelf, "c:words" a caption (components/atlas.py).
unclip.map = {
  settings: { layout: "umap", dims: 2, colour: "group" },
  data: null, session: { own: [], at: {}, paths: [] }, axis: null, card: null, film: null,
  marked: null, hidden: new Set(), path: [], clicked: "", cursor: null, drawing: false,
  listeners: [],
};
unclip.map.PALETTE = ["#e4572e", "#3d7dd8", "#8d8d99", "#e9a820", "#2aa198", "#c2497f", "#7a5cf0", "#a8683a", "#4c9f4a", "#16a5c9"];

// Every part redraws when another part says what changed: "data", "settings", "marks", "card", "film", "path", "cursor".
unclip.map.on = (listener) => unclip.map.listeners.push(listener);
unclip.map.changed = (what) => unclip.map.listeners.forEach((listener) => listener(what));
unclip.map.set = (name, value) => {
  const settings = unclip.map.settings;
  if (value === null || value === undefined || settings[name] === value) return;
  settings[name] = value;
  unclip.map.changed("settings");
};
unclip.map.setPath = (text) => {
  unclip.map.path = (text || "").split("|").filter(Boolean);
  unclip.map.changed("path");
};
unclip.map.addStop = (point, trigger, event) => {
  const path = unclip.map.path;
  if (path[path.length - 1] !== point) unclip.map.path = [...path, point.replaceAll("|", " ")].slice(-12);
  unclip.map.changed("path");
  trigger(event);
};
unclip.map.captions = (...words) => words.filter((one) => one.trim()).map((one) => `c:${one.replaceAll("|", " ")}`).join("|");
unclip.map.halt = (value) => (value ? { ...value, phase: "stopped" } : value);

// The layout drawn now. The axis between two captions is flat; without a map only PCA of the session's pictures is there.
unclip.map.layout = () => {
  const { layout, dims } = unclip.map.settings;
  const wanted = layout === "axis" ? "axis2" : `${layout}${dims}`;
  if (!unclip.map.data) return `pca${dims}`;
  if (wanted === "axis2") return unclip.map.axis ? wanted : "pca2";
  return unclip.map.data.places[wanted] ? wanted : unclip.map.data.places[`umap${dims}`] ? `umap${dims}` : `pca${dims}`;
};

// Files of the map: names and numbers as JSON, places as safetensors (a JSON header, then raw arrays).
unclip.map.tensors = (buffer) => {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const kinds = { I16: Int16Array, U16: Uint16Array, U8: Uint8Array, F32: Float32Array };
  return Object.fromEntries(Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, { dtype, data_offsets: [from, to] }]) =>
    [name, new kinds[dtype](buffer.slice(8 + length + from, 8 + length + to))]));
};
unclip.map.columns = (flat, dims) => {
  const count = flat.length / dims;
  return Array.from({ length: dims }, (_, d) => Float32Array.from({ length: count }, (_, i) => flat[i * dims + d] / 32767));
};
unclip.map.load = async (base) => {
  const [facts, raw] = await Promise.all([
    fetch(`${base}map.json`).then((answer) => answer.json()),
    fetch(`${base}points.safetensors`).then((answer) => answer.arrayBuffer()),
  ]);
  const tensors = unclip.map.tensors(raw), places = {};
  for (const name of Object.keys(facts.layouts)) places[name] = unclip.map.columns(tensors[name], Number(name.slice(-1)));
  const group = Uint8Array.from(tensors.concept, (concept) => facts.concepts[concept].group);
  return { base, facts, places, concept: tensors.concept, style: tensors.style, group, sheets: [] };
};

// The names of a point, in the page's language.
unclip.map.name = (point) => {
  const { data, session } = unclip.map, [kind, ...rest] = point.split(":");
  if (kind === "p" && data) {
    const i = Number(rest[0]), concept = data.facts.concepts[data.concept[i]], style = data.facts.styles[data.style[i]];
    return concept ? `${concept[unclip.lang]} · ${style[unclip.lang]}` : point;
  }
  if (kind === "s") return (session.own.find((own) => own.point === point) || { name: unclip.t("map.own_picture") }).name;
  if (kind === "c") return `“${rest.join(":")}”`;
  return unclip.t("map.place");
};
unclip.map.kind = (point) => {
  const data = unclip.map.data;
  if (!point.startsWith("p:") || !data) return unclip.t(`map.kind.${point[0]}`);
  return unclip.t(`map.group.${data.facts.groups[data.group[Number(point.slice(2))]]}`);
};

// Where a point lies in the layout drawn now, or null.
unclip.map.at = (point) => {
  const { data, session, card } = unclip.map, layout = unclip.map.layout();
  if (point.startsWith("p:") && data) {
    const i = Number(point.slice(2)), columns = layout === "axis2" ? unclip.map.axis.columns : data.places[layout];
    return i < data.facts.count ? columns.map((column) => column[i]) : null;
  }
  const own = session.own.findIndex((one) => one.point === point);
  if (own >= 0 && session.at[layout]) return session.at[layout][own];
  const [kind, place, numbers] = point.split(":");
  if (kind === "u" && place === layout) return numbers.split(",").map(Number);
  if (card && card.point === point && card.at[layout]) return card.at[layout][0];
  return null;
};

// The small picture of a point as HTML: from the sheets, from the shelf, or a mark where there is none.
unclip.map.sheet = (i) => {
  const { data } = unclip.map, perSheet = data.facts.columns ** 2, number = Math.floor(i / perSheet), at = i % perSheet;
  if (number >= data.facts.sheets) return null;
  const { columns, side } = data.facts;
  return { number, x: (at % columns) * side, y: Math.floor(at / columns) * side, url: `${data.base}thumbs-${number}.webp` };
};
unclip.map.thumb = (point, width) => {
  const name = unclip.escape(unclip.map.name(point)), size = `width:${width}px;height:${width}px`;
  if (point.startsWith("p:") && unclip.map.data) {
    const sheet = unclip.map.sheet(Number(point.slice(2)));
    if (sheet) {
      const scale = width / unclip.map.data.facts.side, whole = unclip.map.data.facts.columns * width;
      return `<span class="sprite" role="img" aria-label="${name}" style="${size};background-image:url('${sheet.url}');background-size:${whole}px;background-position:${-sheet.x * scale}px ${-sheet.y * scale}px"></span>`;
    }
  }
  const own = unclip.map.ownImage(point);
  if (own) return `<img class="sprite" src="${own}" alt="${name}" style="${size}">`;
  return `<span class="sprite mark ${unclip.escape(point[0] || "")}" role="img" aria-label="${name}" style="${size}">${point.startsWith("c:") ? "T" : ""}</span>`;
};
unclip.map.ownImage = (point) => {
  const image = point.startsWith("s:") && document.querySelector(`#shelf .thumb[data-id="${CSS.escape(point.slice(2))}"] img`);
  return image ? image.src : null;
};

// Search as one types: concepts whose English or Korean name holds the words.
unclip.map.mark = (text) => {
  const data = unclip.map.data, words = (text || "").trim().toLowerCase();
  unclip.map.marked = null;
  if (data && words) {
    const hits = new Set();
    data.facts.concepts.forEach((concept, i) => {
      if (concept.en.toLowerCase().includes(words) || concept.ko.toLowerCase().includes(words)) hits.add(i);
    });
    unclip.map.marked = [];
    data.concept.forEach((concept, i) => { if (hits.has(concept)) unclip.map.marked.push(i); });
  }
  unclip.map.changed("marks");
};

// The axis between two captions: every corpus picture's place, sent by the server.
unclip.map.axisPart = (element, props, watch) => {
  watch("value", () => {
    const value = props.value;
    if (!value || !value.places) return;
    const bytes = Uint8Array.from(atob(value.places), (c) => c.charCodeAt(0));
    unclip.map.axis = { from: value.from, to: value.to, columns: unclip.map.columns(new Int16Array(bytes.buffer), 2) };
    unclip.map.changed("settings");
  });
};
