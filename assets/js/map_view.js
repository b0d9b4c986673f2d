// The map itself: Plotly draws the dots (WebGL) and moves the camera; pictures, rings and paths lie on a canvas above. Plotly
// takes a second to start, and nothing else moves meanwhile: the canvas draws the dots first, and only then it begins.
unclip.map.script = (url) => {
  unclip.map.loading ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(url));
    document.head.append(script);
  });
  return unclip.map.loading;
};

unclip.map.view = (element, props, watch, trigger) => {
  const map = unclip.map, t = unclip.t, escape = unclip.escape, REACH = 1.06;
  element.innerHTML = `<div class="map-frame">
    <div class="map-plot"></div><canvas class="map-over" aria-hidden="true"></canvas>
    <div class="map-tip" hidden></div>
    <div class="map-bar"><button class="tool" data-do="draw"></button><button class="tool" data-do="whole"></button></div>
    <p class="map-note" role="status"></p></div><div class="map-legend"></div>`;
  const [frame, plot, over, tip, note, legend] = [".map-frame", ".map-plot", ".map-over", ".map-tip", ".map-note", ".map-legend"].map((name) => element.querySelector(name));
  let base = null, data = null, shown = "", traces = [], ready = false, nearest = null;

  // Between places and pixels: as Plotly has it, or, until Plotly is here, as it will have it.
  const plotted = () => Boolean(plot._fullLayout?.xaxis?._length);
  const scale = () => {
    if (!plotted()) {
      const { width, height } = frame.getBoundingClientRect(), one = Math.min(width, height) / (2 * REACH);
      return { px: ([x, y]) => [width / 2 + x * one, height / 2 - y * one], at: (x, y) => [(x - width / 2) / one, (height / 2 - y) / one] };
    }
    const { xaxis, yaxis } = plot._fullLayout;
    return { px: (at) => [xaxis._offset + xaxis.d2p(at[0]), yaxis._offset + yaxis.d2p(at[1])],
      at: (x, y) => [xaxis.p2d(x - xaxis._offset), yaxis.p2d(y - yaxis._offset)] };
  };
  const flat = () => map.layout().endsWith("2");
  const columns = () => (map.layout() === "axis2" ? map.axis.columns : map.data.places[map.layout()]);
  let painted;
  const first = new Promise((resolve) => { painted = () => requestAnimationFrame(() => setTimeout(resolve)); }); // on the screen
  first.then(() => { element.dataset.painted = Math.round(performance.now()); });
  const painter = unclip.map.painter(over, frame, { scale, flat, columns, plotted, painted });
  const paint = () => { if (ready || map.data) painter.paint(); };

  // Dots, a trace for each group or style, kept while only what lies above them changes.
  const dots = () => {
    const { data, settings } = map, kinds = settings.colour === "style" ? data.facts.styles : data.facts.groups;
    const which = settings.colour === "style" ? data.style : data.group, all = columns();
    const members = kinds.map(() => []);
    which.forEach((kind, i) => members[kind].push(i));
    return members.map((member, kind) => ({
      type: flat() ? "scattergl" : "scatter3d", mode: "markers", hoverinfo: flat() ? "skip" : "none", showlegend: false, member,
      visible: !map.hidden.has(`${settings.colour}${kind}`),
      ...Object.fromEntries(["x", "y", "z"].slice(0, all.length).map((axis, d) => [axis, Float32Array.from(member, (i) => all[d][i])])),
      marker: { size: flat() ? (data.facts.count > 30000 ? 3 : 5) : 2.6, color: unclip.map.PALETTE[kind % 10], opacity: flat() ? 0.8 : 0.9, line: { width: 0 } },
    }));
  };
  // In 3-D there is no canvas above: rings and paths are traces of their own.
  const marks3 = () => flat() ? [] : painter.marks().map(({ places, colour, size, line, points }) => ({
    type: "scatter3d", mode: line ? "lines+markers" : "markers", hoverinfo: "none", showlegend: false, points: points || [],
    x: places.map((at) => at[0]), y: places.map((at) => at[1]), z: places.map((at) => at[2]),
    marker: { size, color: colour, opacity: 1 }, line: { color: colour, width: 5 },
  }));
  const figure = (fresh) => {
    const axis = { visible: false, range: [-REACH, REACH], autorange: false, zeroline: false };
    const box = { showbackground: false, showgrid: false, zeroline: false, showticklabels: false, title: { text: "" }, showspikes: false, range: [-1.05, 1.05] };
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      dragmode: map.drawing ? false : flat() ? "pan" : "orbit", hovermode: flat() ? false : "closest", uirevision: map.layout(),
      ...(flat() ? { xaxis: axis, yaxis: { ...axis, scaleanchor: "x" } } : { scene: { xaxis: box, yaxis: box, zaxis: box, aspectmode: "cube", uirevision: map.layout(), camera: { eye: { x: 0.95, y: 0.95, z: 0.5 } } } }),
    };
    const config = { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: "reset", showTips: false };
    return Plotly[fresh ? "newPlot" : "react"](plot, [...traces, ...marks3()], layout, config);
  };
  const draw = async () => {
    if (!ready) { paint(); return; }
    const changed = `${map.layout()} ${map.settings.colour} ${map.data ? map.data.facts.count : 0} ${map.axis ? map.axis.from + map.axis.to : ""}`;
    const moved = shown.split(" ")[0].slice(-1) !== map.layout().slice(-1);
    if (changed !== shown) { traces = map.data ? dots() : []; nearest = null; }
    if (moved && shown) Plotly.purge(plot);
    over.hidden = !flat();
    tooltip(null);
    await figure(moved);
    if (moved) listen();
    shown = changed;
    paint();
    painted();
    element.dataset.live ||= Math.round(performance.now());
  };
  const listen = () => {
    plot.on("plotly_relayouting", paint);
    plot.on("plotly_relayout", paint);
    if (flat()) return;
    plot.on("plotly_hover", ({ points: [hit], event }) => tooltip(of(hit), event));
    plot.on("plotly_unhover", () => tooltip(null));
    plot.on("plotly_click", ({ points: [hit] }) => choose(of(hit)));
  };
  const of = ({ data, pointNumber }) => (data.member ? `p:${data.member[pointNumber]}` : data.points[pointNumber]);

  // The pointer on the flat map: the nearest dot, found in a grid of buckets made once for each layout.
  const pick = (event) => {
    const box = frame.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const above = painter.hit(x, y);
    if (above) return above;
    if (!map.data) return null;
    nearest ||= unclip.map.buckets(columns());
    const { at, px } = scale(), place = at(x, y), reach = Math.abs(at(x + 14, y)[0] - place[0]);
    const which = map.settings.colour === "style" ? map.data.style : map.data.group;
    const found = nearest(place, reach, (i) => !map.hidden.has(`${map.settings.colour}${which[i]}`));
    return found === null ? null : `p:${found}`;
  };
  const tooltip = (point, event) => {
    tip.hidden = !point;
    frame.style.cursor = point ? "pointer" : "";
    if (!point) return;
    tip.innerHTML = `${map.thumb(point, 84)}<b>${escape(map.name(point))}</b><small>${escape(map.kind(point))}</small>`;
    const box = frame.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
    tip.style.left = `${Math.min(Math.max(8, x + 16), box.width - 132)}px`;
    tip.style.top = `${y > box.height - 170 ? y - 158 : y + 14}px`;
  };
  const choose = (point) => {
    if (!point) return;
    map.clicked = point;
    if (map.drawing) map.addStop(point, trigger, "path_drawn");
    else trigger("point_click", { point });
  };
  let pressed = null, stroke = [];
  const place = (event) => {
    const box = frame.getBoundingClientRect();
    return scale().at(event.clientX - box.left, event.clientY - box.top).map((value) => Number(value.toFixed(3)));
  };
  const onMap = (event) => ready && flat() && plot.contains(event.target);
  frame.addEventListener("pointerdown", (event) => {
    if (!onMap(event)) return;
    pressed = { x: event.clientX, y: event.clientY };
    stroke = map.drawing ? [place(event)] : [];
  }, true);
  frame.addEventListener("pointermove", (event) => {
    if (!onMap(event)) return;
    if (!pressed) tooltip(pick(event), event); else tooltip(null);
  }, true);
  // While a button is held Plotly lays a cover over the whole window: a line being drawn is followed from there.
  window.addEventListener("pointermove", (event) => {
    if (!map.drawing || !pressed) return;
    stroke.push(place(event));
    painter.stroke = stroke;
    paint();
  });
  window.addEventListener("pointerup", (event) => {
    if (!pressed) return;
    const still = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < 5, drawn = stroke;
    pressed = null; stroke = []; painter.stroke = null;
    if (still) choose(pick(event) || (map.drawing && map.data ? `u:${map.layout()}:${place(event).join(",")}` : null));
    else if (map.drawing && map.data) { map.path = unclip.map.sampled(drawn, 6).map((at) => `u:${map.layout()}:${at.join(",")}`); map.changed("path"); trigger("path_drawn"); }
  });
  frame.addEventListener("pointerleave", () => tooltip(null));

  const words = () => {
    const [pen, whole] = element.querySelectorAll(".map-bar button");
    pen.textContent = t(map.drawing ? "map.drawing" : "map.draw");
    pen.title = t("map.draw_info");
    pen.setAttribute("aria-pressed", map.drawing);
    pen.hidden = !flat() || !map.data;
    whole.textContent = t("map.whole");
    const count = map.marked ? t("map.found", { count: map.marked.length }) : "";
    note.textContent = props.value.notice ? t(props.value.notice) : map.drawing ? t("map.draw_info") : count;
    note.hidden = !note.textContent;
    legend.innerHTML = !map.data ? "" : (map.settings.colour === "style" ? map.data.facts.styles.map((style) => style[unclip.lang]) : map.data.facts.groups.map((group) => t(`map.group.${group}`)))
      .map((name, i) => `<button class="tool" data-kind="${i}" aria-pressed="${!map.hidden.has(map.settings.colour + i)}"><i style="background:${unclip.map.PALETTE[i % 10]}"></i>${escape(name)}</button>`).join("");
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.do === "whole") Plotly.relayout(plot, flat() ? { "xaxis.range": [-REACH, REACH], "yaxis.range": [-REACH, REACH] } : { "scene.camera.eye": { x: 0.95, y: 0.95, z: 0.5 } }).then(paint);
    if (button.dataset.do === "draw") { map.drawing = !map.drawing; Plotly.relayout(plot, { dragmode: map.drawing ? false : "pan" }); words(); }
    if (button.dataset.kind !== undefined) {
      const key = map.settings.colour + button.dataset.kind;
      if (!map.hidden.delete(key)) map.hidden.add(key);
      traces.forEach((trace, kind) => { trace.visible = !map.hidden.has(map.settings.colour + kind); });
      draw(); words();
    }
  });

  const arrive = async () => {
    const value = props.value || {};
    map.session = { own: value.own || [], at: value.at || {}, paths: value.paths || [] };
    if (!value.plotly) return;
    if (value.map && base !== value.map) { base = value.map; data = map.load(base); }
    map.data = await data;
    if (!ready) map.changed("data");
    if (map.data) await Promise.race([first, new Promise((late) => setTimeout(late, 500))]);
    await map.script(value.plotly);
    ready = true;
    map.changed("data");
  };
  map.on((what) => { if (["data", "settings"].includes(what)) draw(); else if (flat()) paint(); else draw(); words(); });
  new ResizeObserver(paint).observe(frame);
  watch("value", arrive);
  unclip.onLanguage(() => { if (props.value) words(); });
  arrive();
  trigger("ready");
};

// An even choice of `count` places along a drawn line.
unclip.map.sampled = (line, count) => {
  const lengths = line.map((at, i) => (i ? Math.hypot(at[0] - line[i - 1][0], at[1] - line[i - 1][1]) : 0));
  let walked = 0;
  const along = lengths.map((length) => (walked += length));
  return Array.from({ length: count }, (_, k) => line[Math.max(0, along.findIndex((length) => length >= (walked * k) / (count - 1) - 1e-9))]);
};

// Which of the places is nearest: a function (place, reach, allowed) -> index or null.
unclip.map.buckets = ([xs, ys]) => {
  const side = 96, cells = new Map(), cell = (v) => Math.floor(((v + 1) / 2) * side);
  xs.forEach((x, i) => {
    const key = cell(x) * 4096 + cell(ys[i]);
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(i);
  });
  return (place, reach, allowed) => {
    let best = null, least = reach * reach;
    for (let cx = cell(place[0] - reach); cx <= cell(place[0] + reach); cx++) for (let cy = cell(place[1] - reach); cy <= cell(place[1] + reach); cy++) {
      for (const i of cells.get(cx * 4096 + cy) || []) {
        const away = (xs[i] - place[0]) ** 2 + (ys[i] - place[1]) ** 2;
        if (away < least && allowed(i)) { least = away; best = i; }
      }
    }
    return best;
  };
};
