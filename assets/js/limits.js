// Limits: measured rates as bars with their 95% intervals, and what a picture's file says of where it comes from.
unclip.rates = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape, percent = (share) => `${Math.round(100 * share)}%`;
  const bar = ([value, low, high], i) => `<div class="measure tint-${i}" role="img" aria-label="${percent(value)} (${percent(low)}–${percent(high)})">
    <span class="track"><i style="width:${100 * value}%"></i><b style="left:${100 * low}%;width:${100 * (high - low)}%"></b></span><em>${percent(value)}</em></div>`;
  const draw = () => {
    const found = props.value;
    if (!found) { element.innerHTML = ""; return; }
    const none = `<p class="unmeasured">${t("limits.unmeasured")}</p>${found.bars.length ? `<code>${escape(found.command)}</code>` : ""}`;
    const legend = `<p class="keys">${found.bars.map((name, i) => `<span class="tint-${i}"><i></i>${escape(t(`limits.bar.${name}`))}</span>`).join("")}</p>`;
    element.innerHTML = `<section class="rates" data-kind="${found.kind}"><h3>${t("limits.measured")}</h3>${!found.rows.length ? none : `
      <p>${escape(t(`limits.counted.${found.kind}`))}</p>${legend}
      <dl>${found.rows.map(({ system, bars }) => `<dt>${escape(t(system))}</dt><dd>${bars.map(bar).join("")}</dd>`).join("")}</dl>
      ${found.other_pack ? `<p class="unmeasured">${escape(t("limits.other_pack", { pack: found.other_pack }))}</p>` : ""}
      <code>${escape(found.command)}</code>`}</section>`;
  };
  watch("value", draw);
  unclip.onLanguage(draw)();
};

unclip.origin = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape;
  const credentials = (said) => {
    if (!said) return `<p class="no">${t("limits.credentials_none")}</p>`;
    if (!said.state) return `<p class="some">${t("limits.credentials_unread")}</p>`;
    const rows = [["state", said.state], ["signer", said.signer], ["actions", (said.actions || []).join(", ")], ["source", (said.source_type || "").split("/").pop()]];
    return `<p class="${said.state === "Invalid" ? "no" : "yes"}">${escape(t("limits.credentials", { state: said.state }))}</p>
      <dl>${rows.filter(([, value]) => value).map(([name, value]) => `<dt>${t(`limits.credential.${name}`)}</dt><dd>${escape(value)}</dd>`).join("")}</dl>`;
  };
  const draw = () => {
    const found = props.value;
    if (!found) { element.innerHTML = `<div class="origin empty"><p>${escape(t("limits.origin_empty"))}</p></div>`; return; }
    element.innerHTML = `<div class="origin"><section><h3>${t("limits.recipe")}</h3>${found.recipe.length
      ? `<p class="yes">${t("limits.recipe_found")}</p><dl>${found.recipe.map(({ name, value }) => `<dt>${t(`limits.recipe.${name}`)}</dt><dd>${escape(value)}</dd>`).join("")}</dl>`
      : `<p class="no">${t("limits.recipe_none")}</p>`}</section>
      <section><h3>${t("limits.credentials_title")}</h3>${credentials(found.credentials)}</section>
      <p class="proof">${t("limits.not_proof")}</p></div>`;
  };
  watch("value", draw);
  unclip.onLanguage(draw)();
};
