// The shelf: a rail of the session's pictures; a picture opens a small menu.
unclip.shelf = (element, props, watch, trigger, upload) => {
  let open = null;
  const { t, escape } = { t: unclip.t, escape: unclip.escape };
  const menu = (item, labs) => `
    <div class="shelf-menu" role="dialog" aria-label="${escape(item.name)}">
      <p class="shelf-name">#${item.number} ${escape(item.name)}</p>
      ${item.parents.length ? `<p class="shelf-from">${t("shelf.from")} ${item.parents.map((n) => `#${n}`).join(", ")}</p>` : ""}
      <div class="shelf-actions">
        <button data-act="recall">${unclip.icons.recall}${t("shelf.recall")}</button>
        <button data-act="download">${unclip.icons.download}${t("shelf.download")}</button>
        <button data-act="remove">${unclip.icons.trash}${t("shelf.remove")}</button>
      </div>
      ${labs.length ? `<p class="shelf-from">${t("shelf.send")}</p><div class="shelf-actions">${labs.map((lab) =>
        `<button data-act="send" data-lab="${lab.name}">${t(lab.title)}</button>`).join("")}</div>` : ""}
    </div>`;
  const draw = () => {
    const { items = [], labs = [] } = props.value || {};
    const chosen = items.find((item) => item.id === open);
    element.innerHTML = `
      <section class="shelf" aria-label="${t("shelf.title")}">
        <header><h2>${t("shelf.title")}<span class="count">${items.length || ""}</span></h2>
          <div class="shelf-tools">
            <label class="tool">${unclip.icons.open}<span>${t("app.open")}</span><input type="file" accept="image/png" hidden></label>
            ${items.length ? `<button class="tool" data-act="zip">${unclip.icons.download}<span>${t("shelf.zip")}</span></button>
            <button class="tool" data-act="clear">${unclip.icons.trash}<span>${t("shelf.clear")}</span></button>` : ""}
          </div></header>
        ${items.length ? `<div class="rail">${items.map((item) => `
          <button class="thumb" data-id="${item.id}" aria-expanded="${item.id === open}" title="${escape(item.name)}">
            <img src="${item.thumb}" alt="${escape(item.name)}"><span>#${item.number}</span></button>`).join("")}</div>`
          : `<p class="shelf-empty">${t("shelf.empty")}</p>`}
        ${chosen ? menu(chosen, labs) : ""}
      </section>`;
    element.querySelector("input[type=file]").onchange = (event) => unclip.openFile(event.target.files[0], upload, trigger);
  };
  element.addEventListener("click", (event) => {
    const act = event.target.closest("[data-act]");
    const thumb = event.target.closest(".thumb");
    if (thumb) { open = open === thumb.dataset.id ? null : thumb.dataset.id; draw(); }
    if (act) { trigger("act", { action: act.dataset.act, id: open, lab: act.dataset.lab }); open = null; draw(); }
  });
  element.addEventListener("keydown", (event) => { if (event.key === "Escape" && open) { open = null; draw(); } });
  watch("value", draw);
  unclip.onLanguage(draw)();
  unclip.dropZone(upload, trigger);
};
