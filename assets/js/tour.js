// The tour: nine chapters, one at a time; arrow keys, Page keys (a presenter's clicker) and Home, End turn them.
unclip.copyHere = async () => {
  try { await navigator.clipboard.writeText(window.location.href); } catch { /* shown in the address bar anyway */ }
  unclip.toast(unclip.t("app.link_copied"));
};

// *stress* and z_i as people print them.
unclip.rich = (text) => unclip.escape(text).replace(/\*([^*]+)\*/g, "<em>$1</em>").replace(/\b([xz])_([a-zA-Z])/g, "<i>$1<sub>$2</sub></i>");

unclip.tour = (element, props, watch, trigger) => {
  const t = unclip.t, escape = unclip.escape, { chapters, base, pack, talk } = props.value;
  let at = Math.min(chapters.length, Math.max(1, Number(unclip.query().get("chapter")) || 1)) - 1, playing = null;
  const rich = unclip.rich;
  const open = ({ lab, ...address }) => `<a class="door" href="${escape(address[unclip.lang])}">${escape(t("tour.open", { lab: t(`${lab}.title`) }))}</a>`;
  const draw = () => {
    const { name, links, figure } = chapters[at];
    element.innerHTML = `<article class="tour" data-chapter="${at + 1}">
      <div class="progress" aria-hidden="true"><i style="width:${(100 * (at + 1)) / chapters.length}%"></i></div>
      <div class="chapter">
        <div class="words"><p class="count"><b>${at + 1}</b><span>${t("tour.chapter", { index: at + 1, total: chapters.length })}</span></p>
          <h2>${rich(t(`tour.${name}.title`))}</h2>${t(`tour.${name}.body`).split("\n").map((line) => `<p>${rich(line)}</p>`).join("")}
          <p class="note">${rich(t(`tour.${name}.note`))}</p><p class="doors">${links.map(open).join("")}</p></div>
        <div class="figure" data-kind="${figure ? figure.kind : "none"}">${figure
          ? `${unclip.tour.figures[figure.kind]({ ...figure, name }, base)}<p class="made"><span class="dot"></span>${escape(t("tour.made", { pack }))}</p>`
          : `<p class="unmade">${t("tour.unmade")}</p>`}</div>
      </div>
      <nav class="turn" aria-label="${t("tour.title")}"><button class="tool" data-go="${at - 1}" ${at ? "" : "disabled"}>← ${t("tour.back")}</button>
        <ol>${chapters.map((chapter, i) => `<li><button data-go="${i}" aria-current="${i === at}" title="${escape(t(`tour.${chapter.name}.title`))}" aria-label="${i + 1}. ${escape(t(`tour.${chapter.name}.title`))}"></button></li>`).join("")}</ol>
        ${at < chapters.length - 1 ? `<button class="tool next" data-go="${at + 1}">${t("tour.next")} →</button>` : `<a class="tool next" href="./?lang=${unclip.lang}">${t("tour.leave")} →</a>`}</nav>
      <p class="keys">${t("tour.keys")}</p></article>`;
    element.querySelectorAll("canvas[data-values]").forEach((canvas) => unclip.heat(canvas, canvas.dataset.values));
    scrubbing();
  };
  const go = (to) => {
    if (to < 0 || to >= chapters.length || to === at) return;
    at = to;
    const query = unclip.query();
    query.set("chapter", at + 1);
    history.replaceState(null, "", `?${query}`);
    draw();
    window.scrollTo({ top: 0 });
    element.querySelector("h2").setAttribute("tabindex", "-1");
    element.querySelector("h2").focus({ preventScroll: true });
  };
  // A row of frames behind one slider; it runs through once by itself.
  const scrubbing = () => {
    clearInterval(playing);
    const box = element.querySelector(".frames");
    if (!box) return;
    const frames = [...box.querySelectorAll("figure")], range = box.querySelector("input");
    const show = (i) => {
      frames.forEach((frame, k) => frame.classList.toggle("on", k === i));
      range.value = i;
      range.setAttribute("aria-valuetext", frames[i].querySelector("figcaption").textContent);
    };
    range.oninput = () => { clearInterval(playing); show(Number(range.value)); };
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) { show(frames.length - 1); return; }
    let i = 0;
    show(0);
    playing = setInterval(() => { if (++i >= frames.length) clearInterval(playing); else show(i); }, 420);
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (button) go(Number(button.dataset.go));
  });
  document.addEventListener("keydown", (event) => {
    if (!element.isConnected || event.altKey || event.ctrlKey || event.metaKey) return;
    const arrows = !event.target.closest?.("input, textarea, select, [role=slider]");
    const to = { PageDown: at + 1, PageUp: at - 1, ...(arrows ? { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: chapters.length - 1 } : {}) }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
  unclip.onLanguage(draw)();
  document.body.dataset.ready = "yes";
  if (talk) trigger("check");
};

// Figures, by kind. `base` is where their files lie.
{
  const t = (...args) => unclip.t(...args), escape = (text) => unclip.escape(text), say = (text) => (text ? text[unclip.lang] || text.en : "");
  const image = (base, file, name) => `<img src="${base}${file}" alt="${escape(name)}" decoding="async">`;
  const heat = (values, name) => `<canvas data-values="${values}" role="img" aria-label="${escape(name)}"></canvas>`;
  const labels = {
    decoder: ({ stage, index, total }) => t("viewer.frame", { stage: t(`strip.${stage}`), index, total }),
    between: ({ share }) => t("tour.between.at", { percent: Math.round(100 * share) }),
    diff: ({ theta }) => t("tour.diff.at", { theta: theta.toFixed(2) }),
    knows: ({ k, width, explained }) => t("tour.knows.at", { k, width, percent: Math.round(100 * explained) }),
  };
  const frames = (name, list, base) => `<div class="frames"><div class="stack">${list.map((frame) =>
    `<figure>${image(base, frame.file, labels[name](frame))}<figcaption>${escape(labels[name](frame))}</figcaption></figure>`).join("")}</div>
    <input type="range" min="0" max="${list.length - 1}" value="0" aria-label="${t("viewer.scrub")}"></div>`;
  unclip.tour.figures = {
    strip: ({ caption, z_t, z_i, pictures }, base) => `<div class="story"><q>${escape(say(caption))}</q>
      <div class="flow"><figure class="numbers">${heat(z_t, "z_t")}<figcaption>z<sub>t</sub></figcaption></figure><span>→</span>
        <figure class="numbers">${heat(z_i, "z_i")}<figcaption>z<sub>i</sub></figcaption></figure><span>→</span>
        ${pictures.slice(0, -1).map((file, i) => `<figure class="small">${image(base, file, say(caption))}<figcaption>${[64, 256][i]} px</figcaption></figure>`).join("<span>→</span>")}</div>
      <figure class="large">${image(base, pictures[pictures.length - 1], say(caption))}</figure></div>`,
    matrix: ({ captions, pictures, cosines }, base) => `<table class="matrix"><thead><tr><td></td>${pictures.map((file, i) => `<th scope="col">${image(base, file, say(captions[i]))}</th>`).join("")}</tr></thead>
      <tbody>${cosines.map((row, r) => `<tr><th scope="row">${escape(say(captions[r]))}</th>${row.map((value) => {
        const low = Math.min(...row), share = (value - low) / Math.max(1e-6, Math.max(...row) - low);
        return `<td class="${share === 1 ? "best" : ""}" style="--share:${share.toFixed(2)}">${value.toFixed(2)}</td>`;
      }).join("")}</tr>`).join("")}</tbody></table>`,
    columns: ({ caption, columns }, base) => `<div class="ways"><q>${escape(say(caption))}</q><div>${columns.map(({ way, pictures, cosine }) =>
      `<section><h3>${unclip.rich(t(`tour.prior.${way}`))}</h3>${pictures.map((file) => image(base, file, say(caption))).join("")}<p>cos ${cosine.toFixed(2)}</p></section>`).join("")}</div></div>`,
    scrub: ({ name, frames: list, caption, from, to }, base) => `${caption ? `<q>${escape(say(caption))}</q>` : from ? `<q>${escape(say(from))} → ${escape(say(to))}</q>` : ""}${frames(name, list, base)}`,
    halves: ({ parts, z_i, psnr, etas, variations }, base) => `<div class="halves">
      <figure>${image(base, parts[0], t("tour.halves.picture"))}<figcaption>${t("tour.halves.picture")}</figcaption></figure><span>=</span>
      <figure class="numbers">${heat(z_i, "z_i")}<figcaption>${unclip.rich(t("tour.halves.z_i"))}</figcaption></figure><span>+</span>
      <figure>${image(base, parts[1], "x_T")}<figcaption>${unclip.rich(t("tour.halves.x_T"))}</figcaption></figure><span>→</span>
      <figure>${image(base, parts[2], t("tour.halves.back", { psnr }))}<figcaption>${t("tour.halves.back", { psnr })}</figcaption></figure></div>
      <div class="etas">${variations.map((file, i) => `<figure>${image(base, file, `eta ${etas[i]}`)}<figcaption>${unclip.rich(t("tour.halves.eta", { percent: Math.round(100 * etas[i]) }))}</figcaption></figure>`).join("")}</div>`,
    knows: ({ frames: list, classes, seen, shares, drawn }, base) => `<div class="knows">${frames("knows", list, base)}
      <div class="fooled">${seen.map((file, i) => `<section>${image(base, file, say(classes[0]))}<dl>${classes.map((one, k) =>
        `<dt>${escape(say(one))}</dt><dd><i style="width:${Math.round(100 * shares[i][k])}%"></i></dd>`).join("")}</dl></section>`).join("")}
      <section class="drawn"><div>${drawn.map((file) => image(base, file, t("tour.knows.drawn"))).join("")}</div><p>${t("tour.knows.drawn")}</p></section></div></div>`,
    pairs: ({ rows }, base) => rows.map(({ caption, pictures, judged }) => `<section class="pairs"><q>${escape(say(caption))}</q>
      <div>${pictures.map((file, i) => `<figure>${image(base, file, say(caption))}<figcaption>${escape(unclip.say(judged[i] || ""))}</figcaption></figure>`).join("")}</div></section>`).join(""),
  };
}

// The preflight: what the server found, and what only this browser can tell.
unclip.tour.checks = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape;
  let shown = false;
  const here = async () => {
    await document.fonts.ready;
    const away = performance.getEntriesByType("resource").map((entry) => new URL(entry.name)).filter((url) => url.origin !== location.origin && !/^(data|blob):/.test(url.protocol));
    const lost = [...document.fonts].filter((face) => face.status === "error"), canvas = document.createElement("canvas");
    const webgl = canvas.getContext("webgl2") || canvas.getContext("webgl");
    return [
      { name: "tour.check.faces", fine: !lost.length && document.fonts.check("16px Pretendard", "a가"), detail: t(lost.length ? "tour.check.faces_lost" : "tour.check.faces_fine") },
      { name: "tour.check.webgl", fine: Boolean(webgl), detail: webgl ? webgl.getParameter(webgl.VERSION) : t("tour.check.webgl_lost") },
      { name: "tour.check.requests", fine: !away.length, detail: away.map((url) => url.host).join(", ") || t("tour.check.none") },
      { name: "tour.check.screen", fine: true, detail: `${screen.width} × ${screen.height}` },
    ];
  };
  const draw = async () => {
    if (!UNCLIP.talk) return;
    const server = props.value || [], done = server.some(({ name }) => name === "tour.check.sample");
    const found = [...server, ...(done ? await here() : [])], faults = found.filter(({ fine }) => !fine).length;
    const status = !done ? t("tour.preflight_running") : faults ? t("tour.preflight_not", { count: faults }) : t("tour.preflight_fine");
    element.innerHTML = `<section class="checks ${done ? (faults ? "faulty" : "fine") : "running"}">
      <button class="tool" aria-expanded="${shown}"><span class="dot ${done && !faults ? "live" : ""}"></span><b>${t("tour.preflight")}</b> ${escape(status)}</button>
      ${shown ? `<ul>${found.map(({ name, fine, detail }) => `<li class="${fine ? "yes" : "no"}"><b>${escape(t(name))}</b> ${escape(detail)}</li>`).join("")}</ul>` : ""}</section>`;
  };
  element.addEventListener("click", (event) => { if (event.target.closest("button")) { shown = !shown; draw(); } });
  watch("value", draw);
  unclip.onLanguage(draw)();
};
