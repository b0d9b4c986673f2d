// What lies above the dots of the flat map: small pictures where there is room, search hits, neighbours, paths, walks.
unclip.map.painter = (canvas, frame, { scale, flat, columns, plotted, painted }) => {
  const map = unclip.map, TILE = 30;
  const images = new Map();
  let tiles = [], asked = false;
  const self = { stroke: null };
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const image = (url) => {
    if (!images.has(url)) {
      const made = new Image();
      made.onload = () => self.paint();
      made.src = url;
      images.set(url, made);
    }
    const found = images.get(url);
    return found.complete && found.naturalWidth ? found : null;
  };
  // Draws a point's picture centred at (x, y); false while it is not loaded.
  const tile = (context, point, x, y, size, border, width = 1.5) => {
    let source = null, cut = null;
    if (point.startsWith("p:")) {
      const sheet = map.sheet(Number(point.slice(2)));
      source = sheet && image(sheet.url);
      cut = sheet && [sheet.x, sheet.y, map.data.facts.side, map.data.facts.side];
    } else {
      const url = point.startsWith("data:") ? point : map.ownImage(point);
      source = url && image(url);
      cut = source && [0, 0, source.naturalWidth, source.naturalHeight];
    }
    if (!source) return false;
    const left = x - size / 2, top = y - size / 2;
    context.save();
    context.beginPath();
    context.roundRect(left, top, size, size, size / 5);
    context.fillStyle = "#fff";
    context.fill();
    context.clip();
    context.drawImage(source, ...cut, left, top, size, size);
    context.restore();
    context.beginPath();
    context.roundRect(left, top, size, size, size / 5);
    context.lineWidth = width;
    context.strokeStyle = border;
    context.stroke();
    tiles.push({ point, left, top, size });
    return true;
  };
  const ring = (context, [x, y], radius, stroke, width = 2) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.stroke();
  };
  const line = (context, places, stroke, dash = []) => {
    context.beginPath();
    places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.lineWidth = 2.5;
    context.setLineDash(dash);
    context.strokeStyle = stroke;
    context.lineJoin = "round";
    context.stroke();
    context.setLineDash([]);
  };

  // The dots themselves, as long as Plotly does not draw them.
  const dots = (context, px) => {
    const { data, settings } = map, [xs, ys] = columns(), size = data.facts.count > 30000 ? 3 : 5;
    const kinds = settings.colour === "style" ? data.style : data.group, [x0, y0] = px([0, 0]), one = px([1, 0])[0] - x0;
    context.globalAlpha = 0.8;
    for (let kind = 0, last = kinds.reduce((most, one) => Math.max(most, one), 0); kind <= last; kind++) {
      if (map.hidden.has(settings.colour + kind)) continue;
      context.fillStyle = unclip.map.PALETTE[kind % 10];
      for (let i = 0; i < xs.length; i++) if (kinds[i] === kind) context.fillRect(x0 + xs[i] * one - size / 2, y0 - ys[i] * one - size / 2, size, size);
    }
    context.globalAlpha = 1;
  };

  // Corpus pictures where none lies in another's way: those searched for, or else in the order of the sheets.
  const corpus = (context, px, width, height) => {
    const { data, settings, marked } = map, [xs, ys] = columns(), taken = new Map();
    const kinds = settings.colour === "style" ? data.style : data.group, visible = [];
    const [left, top] = px([-1, 1]), [right, bottom] = px([1, -1]);
    const room = right - left > 3 * width ? TILE + 3 : 46;
    const free = (x, y) => {
      const column = Math.floor(x / room), row = Math.floor(y / room);
      for (let c = column - 1; c <= column + 1; c++) for (let r = row - 1; r <= row + 1; r++) {
        const other = taken.get(c * 4096 + r);
        if (other && Math.abs(other[0] - x) < room && Math.abs(other[1] - y) < room) return false;
      }
      taken.set(column * 4096 + row, [x, y]);
      return true;
    };
    const offer = (i, ringed) => {
      if (map.hidden.has(settings.colour + kinds[i])) return;
      const x = left + ((xs[i] + 1) / 2) * (right - left), y = top + ((1 - ys[i]) / 2) * (bottom - top);
      if (x < 0 || y < 0 || x > width || y > height) return;
      if (ringed) ring(context, [x, y], 5, colour("--coral"), 1.5);
      if (visible.length < 400 && free(x, y)) visible.push([i, x, y]);
    };
    if (marked) marked.forEach((i) => offer(i, marked.length < 2000));
    if (!marked || !marked.length) for (let i = 0; i < xs.length; i++) offer(i, false);
    const border = (i) => unclip.map.PALETTE[kinds[i] % 10];
    visible.forEach(([i, x, y]) => tile(context, `p:${i}`, x, y, TILE, border(i)));
  };

  // Rings and lines as places, for the flat canvas and for Plotly's traces in 3-D alike.
  self.marks = () => {
    const { card, film, session, path } = map, layout = map.layout(), found = [];
    const places = (points) => points.map(map.at).filter(Boolean);
    const own = session.at[layout] || [];
    session.paths.forEach((run) => found.push({ places: run.map((i) => own[i]), points: run.map((i) => session.own[i].point), colour: colour("--violet"), size: 4, line: true }));
    if (own.length) found.push({ places: own, points: session.own.map((one) => one.point), colour: colour("--coral"), size: 6, own: true });
    if (card) found.push({ places: places(card.neighbours.map((one) => one.point)), points: card.neighbours.map((one) => one.point), colour: colour("--violet"), size: 6, near: true });
    if (card && map.at(card.point)) found.push({ places: [map.at(card.point)], points: [card.point], colour: colour("--coral"), size: 10, chosen: true });
    if (path.length) found.push({ places: places(path), points: path, colour: colour("--ink"), size: 5, line: true, dash: true });
    if (film && film.at && film.at[layout]) found.push({ places: film.at[layout], colour: colour("--coral"), size: 5, line: true, walk: true });
    return found.filter((mark) => mark.places.length);
  };
  const above = (context, px) => {
    const { card, film } = map, coral = colour("--coral");
    for (const mark of self.marks()) {
      const at = mark.places.map(px);
      if (mark.line) line(context, at, mark.colour, mark.dash ? [6, 5] : []);
      if (mark.near) at.forEach((place) => ring(context, place, 8, mark.colour));
      if (mark.chosen) {
        if (!tile(context, card.point, ...at[0], 46, mark.colour, 3)) ring(context, at[0], 11, mark.colour, 3.5);
      }
      if (mark.own) at.forEach((place, i) => { if (!tile(context, mark.points[i], ...place, 34, coral, 2)) ring(context, place, 7, coral, 3); });
      if (mark.dash) at.forEach(([x, y]) => { context.fillStyle = mark.colour; context.beginPath(); context.arc(x, y, 5, 0, 7); context.fill(); });
      if (mark.walk) walk(context, at, film, coral);
    }
    if (self.stroke) line(context, self.stroke.map(px), colour("--ink"));
  };
  const walk = (context, at, film, coral) => {
    film.frames.forEach((frame, i) => { if (i !== map.cursor) tile(context, frame.src, ...at[i], 28, coral, 2); });
    if (map.cursor !== null && film.frames[map.cursor]) tile(context, film.frames[map.cursor].src, ...at[map.cursor], 64, coral, 3);
  };

  self.paint = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      const { width, height } = frame.getBoundingClientRect(), dense = window.devicePixelRatio || 1;
      if (!flat() || !width) return;
      if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
        canvas.width = Math.round(width * dense);
        canvas.height = Math.round(height * dense);
      }
      const context = canvas.getContext("2d");
      context.setTransform(dense, 0, 0, dense, 0, 0);
      context.clearRect(0, 0, width, height);
      tiles = [];
      const { px } = scale();
      if (map.data && !plotted()) dots(context, px);
      if (map.data) corpus(context, px, width, height);
      above(context, px);
      if (map.data) painted();
    });
  };
  // The picture under the pointer, topmost first.
  self.hit = (x, y) => {
    const found = tiles.findLast(({ left, top, size, point }) => !point.startsWith("data:") && x >= left && y >= top && x <= left + size && y <= top + size);
    return found ? found.point : null;
  };
  return self;
};
