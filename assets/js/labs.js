// What the labs share: boards of pictures, a picture enlarged, line charts, the shipped pictures to pick from.

// A label from the server: text as it is, or {key, values} looked up in the page's language.
unclip.say = (label) => (label && label.key ? unclip.t(label.key, label.values) : label ?? "");
// The value of a board whose run ended before its end.
unclip.halt = (value) => ({ ...value, phase: "stopped" });
unclip.start = (value) => ({ ...value, phase: "running" });
// Names of the shipped pictures among files, by place: "red-apple,,rocket".
unclip.exampleNames = (files) => {
  const names = files.map((file) => (file && unclip.examples.includes(file.orig_name) ? file.orig_name.slice(0, -4) : ""));
  return names.some(Boolean) ? names.join(",") : "";
};
unclip.examples = [];

// An arrow key on a slider settles it as letting go does.
document.addEventListener("keyup", (event) => {
  const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
  if (event.target.matches?.(".gradio-container input[type=range]") && keys.includes(event.key))
    event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
});
// Whether a slider is being moved. Coarse pictures follow it; one that comes after it was let go comes too late.
unclip.moving = false;
document.addEventListener("input", (event) => { unclip.moving ||= Boolean(event.target.matches?.(".gradio-container :is(input[type=range], input[type=number])")); });
["pointerup", "pointercancel", "focusout"].forEach((name) => document.addEventListener(name, () => { unclip.moving = false; }, true));

// A cell of a board: picture, embedding, or a place that waits. `at` ("row,column") finds it again.
unclip.cell = (cell, at, alt = "") => {
  const escape = unclip.escape, say = unclip.say;
  if (!cell) return `<div class="tile empty"></div>`;
  const name = escape(say(cell.name) || alt), source = cell.file ? cell.file.url : cell.src;
  const art = cell.values ? `<canvas role="img" aria-label="${name}"></canvas>`
    : source ? `<img src="${source}" alt="${name}">` : `<span class="blank"></span>`;
  const done = cell.share == null || cell.share >= 1;
  return `<figure class="tile ${cell.mark ? "marked" : ""} ${cell.values ? "embedding" : ""} ${done ? "" : "on"}">
    <button type="button" class="art" data-at="${at}" ${source ? "" : "disabled"} title="${escape(unclip.t("subject.enlarge", { name: say(cell.name) || alt }))}">${art}
      ${done ? "" : `<i class="share" style="width:${Math.round(100 * cell.share)}%"></i>`}</button>
    ${cell.note ? `<figcaption>${escape(say(cell.note))}</figcaption>` : ""}</figure>`;
};
unclip.paint = (element, find) => element.querySelectorAll(".tile canvas").forEach((canvas) => {
  const cell = find(canvas.closest("[data-at]").dataset.at);
  if (cell) unclip.heat(canvas, cell.values);
});

unclip.board = (element, props, watch) => {
  const say = unclip.say, escape = unclip.escape;
  const find = (at) => { const [row, column] = at.split(",").map(Number); return props.value.rows?.[row]?.cells[column]; };
  const tile = ({ columns, rows }, r, c) => unclip.cell(rows[r].cells[c], `${r},${c}`, [say(rows[r].label), say(columns[c])].filter(Boolean).join(", "));
  const table = (value) => {
    const { columns, rows, feet } = value, named = rows.some((row) => row.label);
    const head = columns.some((label) => label) ? `<thead><tr>${named ? "<td></td>" : ""}${columns.map((label) => `<th scope="col">${escape(say(label))}</th>`).join("")}</tr></thead>` : "";
    const body = rows.map((row, r) => `<tr>${named ? `<th scope="row">${escape(say(row.label))}</th>` : ""}${row.cells.map((_, c) => `<td>${tile(value, r, c)}</td>`).join("")}</tr>`).join("");
    const foot = feet?.length ? `<tfoot><tr>${named ? "<td></td>" : ""}${feet.map((label) => `<td>${escape(say(label)).replaceAll("\n", "<br>")}</td>`).join("")}</tr></tfoot>` : "";
    return `<div class="scroll"><table style="--columns:${columns.length || 1}">${head}<tbody>${body}</tbody>${foot}</table></div>`;
  };
  const parts = (value) => value.rows.map((row, r) => `<div class="row">${row.cells.map((_, c) =>
    `<div class="part part-${c}"><b>${escape(say(value.columns[c]))}</b>${tile(value, r, c)}</div>`).join("")}</div>`).join("");
  const tail = (value) => `${value.rows.length && value.note ? `<p class="remark">${escape(say(value.note))}</p>` : ""}${value.badge ? unclip.badge(value.badge) : ""}`;
  let frame = "", cells = []; // as they are drawn: a picture that arrives leaves the others alone
  let whole = props.value; // the last value that was not coarse
  const draw = () => {
    if (props.value?.coarse && !unclip.moving) { props.value = whole; return; }
    if (!props.value?.coarse) whole = props.value;
    const value = { columns: [], rows: [], ...props.value }, { rows, columns, feet } = value;
    const focus = element.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    const now = rows.map((row) => row.cells.map((cell) => JSON.stringify(cell)));
    const around = JSON.stringify([unclip.lang, columns, rows.map((row) => [row.label, row.cells.length]), feet, rows.length ? "" : value.note]);
    if (around === frame) {
      now.forEach((row, r) => row.forEach((cell, c) => {
        if (cell === cells[r][c]) return;
        const place = element.querySelectorAll(".tile")[r * row.length + c];
        place.outerHTML = tile(value, r, c);
      }));
      const board = element.querySelector(".board");
      board.dataset.phase = value.phase;
      board.setAttribute("aria-busy", value.phase === "running");
      board.querySelector(".tail").innerHTML = tail(value);
    } else {
      const body = !rows.length ? `<p class="nothing">${escape(say(value.note))}</p>`
        : element.closest(".parts") ? parts(value) : table(value);
      element.innerHTML = `<div class="board" data-phase="${value.phase}" data-rows="${rows.length}" aria-busy="${value.phase === "running"}">${body}<div class="tail">${tail(value)}</div></div>`;
    }
    [frame, cells] = [around, now];
    unclip.paint(element, find);
    if (focus) element.querySelector(`[data-at="${focus}"]`)?.focus();
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest(".art");
    if (button) unclip.closeUp(find(button.dataset.at));
  });
  watch("value", draw);
  unclip.onLanguage(draw)();
};

// One picture large, with its PNG.
unclip.closeUp = (cell) => {
  if (!cell || !(cell.file || cell.src)) return;
  const { t, escape, say } = unclip, dialog = document.createElement("dialog");
  dialog.className = "close-up";
  dialog.innerHTML = `<img src="${cell.file ? cell.file.url : cell.src}" alt="${escape(say(cell.name))}">
    <div><p><b>${escape(say(cell.name))}</b> ${escape(say(cell.note || ""))}</p>
    ${cell.file ? `<button class="tool" data-do="save">${unclip.icons.download}<span>PNG</span></button>` : ""}
    <button class="tool" data-do="close">${t("subject.close")}</button></div>`;
  dialog.addEventListener("click", (event) => {
    const what = event.target.closest("[data-do]")?.dataset.do;
    if (what === "save") unclip.download(cell.file);
    else if (what === "close" || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
};

// The shipped pictures, small, to start from.
unclip.picks = (element, props, trigger) => {
  const offered = props.value || [], escape = unclip.escape;
  unclip.examples.push(...offered.map((one) => `${one.name}.png`));
  const draw = () => {
    element.innerHTML = `<div class="picks"><span>${unclip.t("subject.or_pick")}</span>${offered.map((one) => {
      const name = escape(unclip.t(`example.${one.name}`));
      return `<button type="button" data-name="${escape(one.name)}" title="${name}"><img src="${one.file.url}" alt="${name}"></button>`;
    }).join("")}</div>`;
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-name]");
    if (button) trigger("pick", { name: button.dataset.name });
  });
  unclip.onLanguage(draw)();
};

// Things to try, in the page's language.
unclip.presets = (element, props, trigger) => {
  const draw = () => {
    element.innerHTML = `<div class="chips"><span>${unclip.t("subject.try")}</span>${(props.value || []).map((one, index) =>
      `<button type="button" class="chip" data-index="${index}">${unclip.escape(one[unclip.lang])}</button>`).join("")}</div>`;
  };
  element.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) trigger("pick", { index: Number(chip.dataset.index), lang: unclip.lang });
  });
  unclip.onLanguage(draw)();
};

// Lines over one axis, with a marker where the lab's slider stands. Drawn at the width there is.
unclip.chart = (element, props, watch) => {
  const { escape, say } = unclip;
  const H = 210, left = 34, right = 14, top = 10, bottom = 34;
  const draw = () => {
    const value = props.value, W = Math.max(280, Math.min(760, element.clientWidth - 34));
    if (!value) { element.innerHTML = ""; return; }
    const { x, y } = value;
    const lines = value.lines.map((line) => ({ ...line, points: line.points.split(" ").map((pair) => pair.split(",").map(Number)) }));
    const px = (v) => left + ((W - left - right) * (v - x.low)) / (x.high - x.low || 1);
    const py = (v) => H - bottom - ((H - top - bottom) * (v - y.low)) / (y.high - y.low || 1);
    const ticks = (axis, count) => Array.from({ length: count + 1 }, (_, i) => axis.low + ((axis.high - axis.low) * i) / count);
    const short = (v) => (Math.abs(v) >= 10 || Number.isInteger(v) ? Math.round(v) : v.toFixed(2));
    const at = value.at == null ? null : Math.min(Math.max(value.at, x.low), x.high);
    const height = (line) => { // of a line at the marker
      const next = line.points.findIndex((p) => p[0] >= at);
      if (next <= 0) return line.points[Math.max(next, 0)]?.[1];
      const [x0, y0] = line.points[next - 1], [x1, y1] = line.points[next];
      return y0 + ((y1 - y0) * (at - x0)) / (x1 - x0 || 1);
    };
    element.innerHTML = `<figure class="chart"><figcaption>${escape(say(value.title))}</figcaption>
      <svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${escape(say(value.title))}">
      ${ticks(y, 4).map((v) => `<line class="grid" x1="${left}" x2="${W - right}" y1="${py(v)}" y2="${py(v)}"/><text x="${left - 6}" y="${py(v) + 3.5}" text-anchor="end">${short(v)}</text>`).join("")}
      ${ticks(x, 5).map((v) => `<text x="${px(v)}" y="${H - bottom + 15}" text-anchor="middle">${short(v)}</text>`).join("")}
      <text class="axis" x="${W - right}" y="${H - 4}" text-anchor="end">${escape(say(x.label))}</text>
      ${lines.map((line) => `<polyline class="${line.tint}" points="${line.points.map(([a, b]) => `${px(a)},${py(b)}`).join(" ")}"/>`).join("")}
      ${at == null ? "" : `<line class="at" x1="${px(at)}" x2="${px(at)}" y1="${top}" y2="${H - bottom}"/>${lines.map((line) =>
        `<circle class="${line.tint}" cx="${px(at)}" cy="${py(height(line))}" r="4.5"/>`).join("")}`}
      </svg><ul class="legend">${lines.map((line) => `<li class="${line.tint}">${escape(say(line.label))}${at == null ? "" : ` <b>${height(line).toFixed(2)}</b>`}</li>`).join("")}</ul></figure>`;
  };
  watch("value", draw);
  new ResizeObserver(draw).observe(element);
  unclip.onLanguage(draw)();
};
