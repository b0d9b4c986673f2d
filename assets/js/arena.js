// The arena: a blind pair and three answers; results; setting up.

// Who votes: a number this browser drew for itself.
unclip.voter = () => {
  const draw = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  try {
    let voter = localStorage.getItem("unclip-voter");
    if (!/^[0-9a-f]{32}$/.test(voter || "")) localStorage.setItem("unclip-voter", (voter = draw()));
    return voter;
  } catch { return (unclip.voterHere ??= draw()); }
};

// "AR prior, decoder guidance 3", in the page's language; the pack is named where it is not the one in use.
unclip.systemName = (system, own) => {
  if (!system) return "?";
  const parts = [unclip.t(`arena.system_${system.prior}`)];
  if (system.prior_guidance != null) parts.push(`${unclip.t("arena.prior_guidance")} ${system.prior_guidance}`);
  if (system.decoder_guidance != null) parts.push(`${unclip.t("arena.decoder_guidance")} ${system.decoder_guidance}`);
  return unclip.escape(parts.join(" · ") + (system.pack === own || system.pack === "pocket" ? "" : ` (${system.pack})`));
};

unclip.arenaBack = (element) => {
  unclip.onLanguage(() => { element.innerHTML = `<a href="./?lang=${unclip.lang}">← ${unclip.t("arena.back")}</a>`; })();
};

unclip.arena = (element, props, watch, trigger) => {
  const t = unclip.t, escape = unclip.escape;
  let waiting = null, sent = false;
  const ask = (name, data) => {
    sent = true;
    clearTimeout(waiting);
    waiting = setTimeout(() => { sent = false; unclip.toast(t("arena.lost")); draw(); }, 20000);
    trigger(name, { voter: unclip.voter(), ...data });
  };
  const answer = (choice) => {
    const ballot = props.value && props.value.ballot;
    if (!ballot || sent) return;
    element.querySelectorAll("button").forEach((button) => { button.disabled = true; });
    element.querySelector(`[data-side="${choice}"]`)?.classList.add("chosen");
    ask("vote", { token: ballot.token, choice });
  };
  const message = (text, action = "") => `<div class="arena-note"><p>${text}</p>${action}</div>`;
  const draw = () => {
    const state = props.value, ballot = state && state.ballot;
    if (state) document.body.dataset.ready = "yes";
    if (!state) { element.innerHTML = message(t("arena.loading")); return; }
    if (state.broken) { element.innerHTML = message(escape(state.notice), `<button class="chip" data-do="again">${t("arena.retry")}</button>`); return; }
    if (!ballot) {
      const key = state.preparing ? "arena.more_coming" : state.of ? "arena.done" : "arena.empty";
      element.innerHTML = message(t(key));
      if (state.preparing) waiting = setTimeout(() => { if (element.isConnected) ask("arrive", {}); }, 6000);
      return;
    }
    const figure = (side) => `<figure data-side="${side}"><img src="${ballot[side]}" alt="${t(`arena.${side}_picture`)}">
      <button class="chip" data-choice="${side}">${t(`arena.${side}`)}</button></figure>`;
    const caption = ballot.caption[unclip.lang] || ballot.caption.en;
    element.innerHTML = `<div class="arena-head"><h3>${t(`arena.task_${ballot.task}`)}</h3><output>${t("arena.progress", { cast: state.cast, of: state.of })}</output></div>
      ${ballot.task === "realism" ? "" : `<p class="arena-caption">${escape(caption)}</p>`}
      <div class="arena-pair" data-task="${ballot.task}">${figure("left")}${figure("right")}
        <button class="chip tie" data-choice="tie" data-side="tie">${t("arena.tie")}</button></div>
      <p class="arena-keys"><span>${t("arena.keys")}</span><span>${t("arena.final")}</span></p>`;
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.choice) answer(button.dataset.choice);
    if (button && button.dataset.do === "again") ask("arrive", {});
  });
  const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
  document.addEventListener("keydown", (event) => {
    if (!keys[event.key] || !element.offsetParent || event.target.closest?.("input, textarea, [role=tab], [role=radio]") || event.repeat) return;
    event.preventDefault();
    answer(keys[event.key]);
  });
  watch("value", () => {
    sent = false;
    clearTimeout(waiting);
    if (props.value && props.value.notice && !props.value.broken) unclip.toast(props.value.notice);
    draw();
  });
  unclip.onLanguage(draw)();
  ask("arrive", {});
};

unclip.arenaResults = (element, props, watch) => {
  const t = unclip.t, escape = unclip.escape, percent = (x) => (100 * x).toFixed(0);
  const draw = () => {
    const found = props.value;
    if (!found) { element.innerHTML = ""; return; }
    const name = (system) => (found.systems[system] ? unclip.systemName(found.systems[system], found.own) : escape(system));
    const rate = ([value, low, high]) => `<div class="rate" role="img" aria-label="${percent(value)}%, ${percent(low)} – ${percent(high)}%"><i class="span" style="left:${100 * low}%;width:${100 * (high - low)}%"></i><i class="at" style="left:${100 * value}%"></i></div>`;
    const tasks = Object.keys(found.strengths);
    const bouts = (task) => found.rows.filter((row) => row.task === task).map((row) => `<li><div><b>${name(row.a)}</b> <small>${t("arena.against", { b: name(row.b) })}</small></div>
      ${rate(row.rate)}<div class="figures"><b>${percent(row.rate[0])}%</b> <small>${percent(row.rate[1])}–${percent(row.rate[2])}% · ${t("arena.counts", row)}</small></div></li>`).join("");
    const strengths = (task) => found.strengths[task].map(([system, value, low, high]) =>
      `<tr><th>${name(system)}</th><td><b>${value > 0 ? "+" : ""}${value.toFixed(0)}</b></td><td>${low.toFixed(0)} … ${high.toFixed(0)}</td></tr>`).join("");
    const paper = Object.entries(found.paper).map(([prior, figures]) => `<tr><th>${t(`arena.system_${prior}`)}</th>${figures.map(([value, reach]) => `<td>${value} ± ${reach.toFixed(1)}</td>`).join("")}</tr>`).join("");
    const names = ["realism", "caption", "diversity"];
    element.innerHTML = `
      ${found.lasting ? "" : `<p class="arena-warning">${t("arena.not_lasting")}</p>`}
      <p class="arena-votes">${found.votes ? t("arena.votes", found) : t("arena.no_votes")}</p>
      ${names.filter((task) => tasks.includes(task)).map((task) => `<section class="sheet-like"><h3>${t(`arena.name_${task}`)}</h3>
        <div class="columns"><div><h4>${t("arena.win_rate")}</h4><ul class="bouts">${bouts(task)}</ul></div>
        <div><h4>${t("arena.strength")}</h4><table class="strengths"><tbody>${strengths(task)}</tbody></table></div></div></section>`).join("")}
      ${found.votes ? `<p class="arena-how">${t("arena.win_rate_info")} ${t("arena.strength_info")}</p>` : ""}
      <section class="sheet-like"><h3>${t("arena.paper")}</h3><table class="paper"><thead><tr><th></th>${names.map((task) => `<th>${t(`arena.paper_${task}`)}</th>`).join("")}</tr></thead><tbody>${paper}</tbody></table>
      <p class="arena-how">${t("arena.paper_info")}</p></section>`;
  };
  watch("value", draw);
  unclip.onLanguage(draw)();
};

unclip.arenaSetup = (element, props, watch, trigger) => {
  const t = unclip.t, escape = unclip.escape;
  let timer = null;
  const draw = () => {
    const state = props.value;
    if (!state) { element.innerHTML = ""; return; }
    const rows = state.matches.map((match) => `<li><div><b>${t("arena.versus", { a: unclip.systemName(match.a, state.own), b: unclip.systemName(match.b, state.own) })}</b>
      <small>${match.done < match.total ? t("arena.drawing", match) : t("arena.ready")}${match.own ? "" : ` · ${t("arena.shipped")}`}</small></div>
      <span class="made" role="img" aria-label="${match.done} / ${match.total}"><i style="width:${(100 * match.done) / match.total}%"></i></span>
      ${match.own && state.here ? `<button class="tool" data-remove="${escape(match.id)}">${unclip.icons.trash}<span>${t("arena.remove")}</span></button>` : ""}</li>`).join("");
    element.innerHTML = `
      ${state.fault ? `<p class="arena-warning">${escape(state.fault)}</p>` : ""}${state.lasting ? "" : `<p class="arena-warning">${t("arena.not_lasting")}</p>`}
      <section class="sheet-like room"><div><h3>${t("arena.room")}</h3><p>${state.address ? t("arena.room_info") : t("arena.room_alone")}</p>
        ${state.address ? `<p class="address">${escape(state.address)}</p>` : ""}</div>${state.code ? `<div class="code">${state.code}</div>` : ""}</section>
      <section class="sheet-like"><h3>${t("arena.matches")}</h3>${rows ? `<ul class="arena-matches">${rows}</ul>` : `<p>${t("arena.no_matches")}</p>`}
      ${state.here ? "" : `<p class="arena-how">${t("arena.elsewhere")}</p>`}</section>`;
    clearTimeout(timer);
    if (state.preparing) timer = setTimeout(() => { if (element.offsetParent) trigger("poll", {}); }, 3000);
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-remove]");
    if (button) trigger("remove", { id: button.dataset.remove });
  });
  watch("value", draw);
  unclip.onLanguage(draw)();
};
