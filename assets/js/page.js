// The page itself: language, theme, addresses, dropped files. Everything hangs on one global, `unclip`.
const unclip = (window.unclip = { listeners: [] });

unclip.query = () => new URLSearchParams(window.location.search);
unclip.lang = UNCLIP.languages.includes(unclip.query().get("lang")) ? unclip.query().get("lang") : UNCLIP.lang;
document.documentElement.lang = unclip.lang;
document.documentElement.classList.toggle("talk", UNCLIP.talk);
// Gradio's own words (upload areas, toasts) follow the browser's language: let them follow the page's.
Object.defineProperty(navigator, "language", { get: () => unclip.lang });
Object.defineProperty(navigator, "languages", { get: () => [unclip.lang] });

unclip.t = (key, values = {}) =>
  ((UNCLIP.strings[key] || {})[unclip.lang] || (UNCLIP.strings[key] || {}).en || key).replace(
    /\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
unclip.escape = (text) => String(text ?? "").replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
unclip.onLanguage = (redraw) => { unclip.listeners.push(redraw); return redraw; };

unclip.setLanguage = (lang) => {
  unclip.lang = lang;
  document.documentElement.lang = lang;
  const query = unclip.query();
  query.set("lang", lang);
  history.replaceState(null, "", `?${query}`);
  unclip.listeners.forEach((redraw) => redraw());
};

unclip.setTheme = (dark) => {
  document.body.classList.toggle("dark", dark);
  try { localStorage.setItem("unclip-theme", dark ? "dark" : "light"); } catch { /* storage may be off */ }
};

// The state of a lab, written into the address. Empty and null values are left out.
unclip.address = (lab, names, values) => {
  const query = new URLSearchParams();
  query.set("lab", lab);
  names.forEach((name, i) => {
    const value = values[i];
    if (value !== null && value !== undefined && value !== "" && typeof value !== "object") query.set(name, value);
  });
  query.set("lang", unclip.lang);
  history.replaceState(null, "", `?${query}`);
};

unclip.toast = (text) => {
  const note = document.createElement("div");
  note.className = "note-toast";
  note.setAttribute("role", "status");
  note.textContent = text;
  document.body.append(note);
  setTimeout(() => note.remove(), 2600);
};

// The one sentence that Gradio has in English alone: what it says when too many wait.
new MutationObserver(() => {
  for (const note of document.querySelectorAll("[data-testid=toast-text]")) {
    if (note.textContent.startsWith("This application is currently busy")) note.textContent = unclip.t("app.busy");
  }
}).observe(document.documentElement, { childList: true, subtree: true });

// The open lab alone answers "copy link".
unclip.link = async (lab, names, values) => {
  if (!document.getElementById(`tab-${lab}`)?.offsetParent) return;
  unclip.address(lab, names, values);
  try { await navigator.clipboard.writeText(window.location.href); } catch { /* shown in the address bar anyway */ }
  unclip.toast(unclip.t("app.link_copied"));
};

// A theme chosen earlier holds; without one the system's does.
unclip.keepTheme = () => {
  let kept = null;
  try { kept = localStorage.getItem("unclip-theme"); } catch { /* storage may be off */ }
  if (kept) document.body.classList.toggle("dark", kept === "dark");
};

unclip.header = (element, trigger) => {
  unclip.keepTheme();
  const names = { en: ["English", "EN"], ko: ["한국어", "한"] };
  const pages = [["", "app.labs"], ["tour", "tour.title"], ["arena", "arena.link"]];
  const here = (/\/(tour|arena)\/?$/.exec(window.location.pathname) || ["", ""])[1];
  const draw = () => {
    const t = unclip.t, narrow = window.innerWidth < 720;
    element.innerHTML = `
      <div class="brand"><span class="mark" aria-hidden="true"></span><div><h1>${t("app.title")}</h1><p>${t("app.tagline")}</p></div></div>
      <nav class="pages">${pages.filter(([path]) => path !== here).map(([path, key]) =>
        `<a class="tool" href="./${path}?lang=${unclip.lang}">${t(key)}</a>`).join("")}</nav>
      <nav class="tools"><span class="preflight" role="status"></span>
        <button class="tool" data-do="link" title="${t("app.link")}">${unclip.icons.link}<span>${t("app.link")}</span></button>
        <button class="tool" data-do="theme" title="${t("app.theme")}" aria-label="${t("app.theme")}">${unclip.icons.theme}</button>
        <div class="languages" role="group" aria-label="${t("app.language")}">${UNCLIP.languages.map((lang) =>
          `<button class="tool" data-lang="${lang}" aria-pressed="${lang === unclip.lang}">${names[lang][narrow ? 1 : 0]}</button>`).join("")}</div>
      </nav>`;
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.do === "link") trigger("link");
    if (button.dataset.do === "theme") unclip.setTheme(!document.body.classList.contains("dark"));
    if (button.dataset.lang && button.dataset.lang !== unclip.lang) {
      unclip.setLanguage(button.dataset.lang);
      trigger("language", { lang: unclip.lang });
    }
  });
  unclip.onLanguage(() => { draw(); if (UNCLIP.talk) unclip.preflight(element.querySelector(".preflight")); })();
};

// Before a talk: is everything that the page needs here, with no network?
unclip.preflight = async (note) => {
  await document.fonts.ready;
  const away = performance.getEntriesByType("resource").filter((entry) => new URL(entry.name).origin !== location.origin && !/^(data|blob):/.test(entry.name));
  const faces = [...document.fonts].filter((face) => face.status === "error");
  const fine = !away.length && !faces.length;
  note.classList.toggle("fine", fine);
  note.textContent = unclip.t(fine ? "app.offline_ready" : "app.offline_not");
};

// One picture over the whole window; a click or Escape closes it.
unclip.enlarge = (image) => {
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.append(Object.assign(new Image(), { src: image.src, alt: image.alt, className: image.className }));
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
};

// A file handed over by the server, downloaded as it is.
unclip.courier = (element, props, watch) => {
  watch("value", () => {
    const file = props.value && props.value.file;
    if (file) unclip.download(file);
  });
};
unclip.download = (file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name || "picture.png";
  document.body.append(link);
  link.click();
  link.remove();
};

// PNG files dropped anywhere but on an upload area restore their request.
unclip.dropZone = (upload, trigger) => {
  const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const ours = (event) => hasFiles(event) && !event.target.closest?.("[data-testid='image'], .upload-container, .image-container");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  document.body.dataset.drop = unclip.t("app.drop");
  unclip.onLanguage(() => { document.body.dataset.drop = unclip.t("app.drop"); });
  window.addEventListener("dragover", (event) => { if (ours(event)) { event.preventDefault(); mark(true); } });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
  window.addEventListener("drop", (event) => {
    mark(false);
    if (!ours(event)) return;
    event.preventDefault();
    event.stopPropagation();
    unclip.openFile(event.dataTransfer.files[0], upload, trigger);
  }, true);
};
unclip.openFile = async (file, upload, trigger) => {
  if (!file) return;
  try {
    const { path } = await upload(file);
    trigger("dropped", { path });
  } catch { unclip.toast(unclip.t("app.upload_failed")); }
};

// What a picture cost and where, said plainly.
unclip.badge = ({ live, seconds, device, pack }) => `<p class="badge"><span class="dot ${live ? "live" : ""}"></span>${
  [unclip.t(live ? "badge.live" : "badge.precomputed"), seconds == null ? "" : unclip.t("badge.seconds", { seconds: seconds.toFixed(1) }), device, pack]
    .filter(Boolean).map(unclip.escape).join(" · ")}</p>`;

const svg = (body) => `<svg viewBox="0 0 20 20" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${body}</svg>`;
unclip.icons = {
  link: svg('<path d="M8.5 11.5a3 3 0 0 0 4.3 0l2.6-2.6a3 3 0 0 0-4.3-4.3l-1 1"/><path d="M11.5 8.5a3 3 0 0 0-4.3 0l-2.6 2.6a3 3 0 0 0 4.3 4.3l1-1"/>'),
  theme: svg('<path d="M16 11.6A6.5 6.5 0 0 1 8.4 4a6.5 6.5 0 1 0 7.6 7.6Z"/>'),
  download: svg('<path d="M10 3.5v9m0 0 3.5-3.5M10 12.5 6.5 9M4 16.5h12"/>'),
  open: svg('<path d="M3.5 15.5v-11h4.2l1.6 2h7.2v9Z"/>'),
  trash: svg('<path d="M4.5 6h11M8 6V4.2h4V6m-6 0 .6 9.8h6.8L14 6"/>'),
  recall: svg('<path d="M4.2 10a5.8 5.8 0 1 0 1.9-4.3M4 3.8v3h3"/>'),
  play: svg('<path d="M6.5 4.5v11l9-5.5Z" fill="currentColor"/>'),
  pause: svg('<path d="M6.5 4.5v11m7-11v11" stroke-width="3"/>'),
};
