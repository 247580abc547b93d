// The console: reads /console/state every few seconds, and sends what is to be explained. Text from outside is only ever
// set as text, never as HTML. Nothing is stored: the bearer token and what was entered live as long as this page.
"use strict";

const PERIOD_MS = 5000;
const TIMEOUT_MS = 30000;
const MINUTES = 60;
const SVG = "http://www.w3.org/2000/svg";
const MARKS = { passed: "✓", failed: "✕", note: "·", not_reached: "–" };
const OUTCOMES = { passed: "passed", failed: "failed", note: "note", not_reached: "not reached" };

const byId = (id) => document.getElementById(id);
let bearer = "";
let isPaused = false;
let lastState = null;
let lastContactMs = 0;

// Elements.

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const rendered = new Map();

/** Replace the children of an element, unless they were made from the same data before. */
function render(id, data, make) {
  const key = JSON.stringify(data);
  if (rendered.get(id) === key) return;
  rendered.set(id, key);
  const children = make(data);
  byId(id).replaceChildren(...(Array.isArray(children) ? children : [children]));
}

function renderRows(tableId, rows, columns, empty) {
  const body = byId(tableId).tBodies[0];
  const key = JSON.stringify(rows);
  if (rendered.get(tableId) === key) return;
  rendered.set(tableId, key);
  if (rows.length) {
    body.replaceChildren(...rows.map(columns));
  } else {
    const width = byId(tableId).tHead ? byId(tableId).tHead.rows[0].cells.length : 1;
    body.replaceChildren(el("tr", {}, el("td", { colspan: width, class: "empty" }, empty)));
  }
}

/** A name that may be broken behind an underscore. */
function breakable(name) {
  const made = document.createDocumentFragment();
  name.split(/(?<=_)/).forEach((part) => made.append(part, el("wbr")));
  return made;
}

const head = (text, attributes = {}) => el("th", { scope: "row", ...attributes }, text);
const cell = (text, className = null) => el("td", { class: className }, text);

// Numbers and times in words.

const number = (value) => value.toLocaleString("en-GB");

function share(part, whole) {
  if (!whole) return "–";
  const percent = (100 * part) / whole;
  return percent > 0 && percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
}

function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const whole = Math.max(0, Math.round(seconds));
  for (let place = 0; place < parts.length; place += 1) {
    const [unit, name] = parts[place];
    if (whole >= unit) {
      const [smaller, smallerName] = parts[place + 1] ?? [1, ""];
      const rest = Math.floor((whole % unit) / smaller);
      return rest && place < 2 ? `${Math.floor(whole / unit)} ${name} ${rest} ${smallerName}` : `${Math.floor(whole / unit)} ${name}`;
    }
  }
  return "0 s";
}

const toMs = (time) => (typeof time === "number" ? time : Date.parse(time));
const ago = (time, nowMs) => (time ? `${span((nowMs - toMs(time)) / 1000)} ago` : "never");
const ahead = (time, nowMs) => (time ? (toMs(time) > nowMs ? `in ${span((toMs(time) - nowMs) / 1000)}` : "now") : "–");
const clock = (timeMs) => new Date(timeMs).toISOString().slice(11, 16);
const LAST_MS = 8.64e15; // of a Date
const isoTime = (timeMs) => new Date(Math.min(LAST_MS, Math.max(-LAST_MS, timeMs))).toISOString().replace(/\.\d+Z$/, "Z");
const sum = (counts) => Object.values(counts).reduce((total, value) => total + value, 0);

// Charts: bars for the minutes of the last hour, the last one at the right.

function barPath(values, peak, from = null) {
  const shift = MINUTES - values.length;
  return values
    .map((value, place) => {
      if (!value) return "";
      const height = Math.max(1.5, (96 * value) / peak);
      const base = from ? (96 * from[place]) / peak : 0;
      return `M${(place + shift) * 10 + 1} ${100 - base}v${-height}h8v${height}z`;
    })
    .join("");
}

function bars(parts) {
  const paths = parts.filter(([, path]) => path).map(([name, path]) => svg("path", { class: name, d: path }));
  return svg("svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, ...paths);
}

function spark(values, className) {
  return el("div", {}, bars([[className, barPath(values, Math.max(1, ...values))]]));
}

function proportion(part, whole) {
  const width = whole ? (600 * part) / whole : 0;
  const rect = svg("rect", { class: "failure", x: 0, y: 0, height: 100, width: Math.max(part ? 2 : 0, width) });
  return el("div", {}, svg("svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, rect));
}

// Panels.

function showTokens(history) {
  const minutes = history.minutes;
  const successes = minutes.map((minute) => minute.statuses.SUCCESS ?? 0);
  const failures = minutes.map((minute, place) => sum(minute.statuses) - successes[place]);
  const totals = minutes.map((_minute, place) => successes[place] + failures[place]);
  const peak = Math.max(1, ...totals);
  const all = sum(history.totals.statuses);
  const failed = all - (history.totals.statuses.SUCCESS ?? 0);
  const begin = minutes.length ? minutes[0].from_ms : 0;

  render("chart", [successes, failures], () => [
    el("span", { class: "peak" }, all ? `${number(peak)} a minute` : "none yet"),
    bars([["success", barPath(successes, peak)], ["failure", barPath(failures, peak, successes)]]),
  ]);
  byId("chart").setAttribute("aria-label", `${number(all)} tokens since ${clock(begin)} UTC, ${number(failed)} of them failed. The table below has the counts.`);
  const marks = byId("chart-axis").children;
  const hourAgoMs = minutes.length ? minutes[minutes.length - 1].to_ms - MINUTES * 60000 : 0;
  marks[0].textContent = `${clock(hourAgoMs)} UTC`;
  marks[1].textContent = clock(hourAgoMs + MINUTES * 30000);

  const names = Object.keys(history.totals.statuses).sort((one, other) => history.totals.statuses[other] - history.totals.statuses[one]);
  const rows = names.map((name) => [name, history.totals.statuses[name], minutes.map((minute) => minute.statuses[name] ?? 0)]);
  renderRows("statuses", rows, ([name, count, values]) => el("tr", {},
    head(breakable(name), { class: "mono" }), cell(number(count), "number"), cell(share(count, all), "number"),
    el("td", { class: "trend" }, spark(values, name === "SUCCESS" ? "success" : "failure"))),
  "No token has been decrypted.");

  const counted = minutes.map((minute, place) => [minute.to_ms, successes[place], failures[place], minute.statuses]).filter((row) => row[1] + row[2]).reverse();
  renderRows("minutes", counted, ([toTime, good, bad, statuses]) => el("tr", {},
    head(`${clock(toTime)} UTC`, { class: "nowrap" }), cell(number(good), "number"), cell(number(bad), "number"),
    cell(Object.entries(statuses).filter(([name]) => name !== "SUCCESS").map(([name, count]) => `${name} ${number(count)}`).join(", "), "words")),
  "No token has been decrypted.");
}

function showFailures(history, failures) {
  const reasons = Object.entries(history.totals.reasons).sort((one, other) => other[1] - one[1]);
  const all = sum(history.totals.reasons);
  renderRows("reasons", reasons, ([name, count]) => el("tr", {},
    head(words(name)), cell(number(count), "number"), cell(share(count, all), "number"),
    el("td", { class: "share" }, proportion(count, all))),
  "No token has failed.");

  const sites = failures.sites ?? [];
  const without = failures.without_site;
  byId("sites-scroll").hidden = !sites.length;
  byId("sites-note").textContent = sites.length || (without && without.failures)
    ? `Estimated from ${number(failures.sampled)} of ${number(failures.failures)} failing tokens.` +
      (without && without.failures ? ` ${number(Math.round(without.failures))} cannot be assigned to a site.` : "")
    : "No failing token has been counted.";
  const shares = (reasonShares) => Object.entries(reasonShares).sort((one, other) => other[1] - one[1]).slice(0, 3)
    .map(([name, part]) => `${words(name)} ${Math.round(100 * part)}\u00a0%`).join(", ");
  renderRows("sites", sites, (site) => el("tr", {},
    head(`${site.site_id}${site.scope ? ` ${site.scope}` : ""}`, { class: "nowrap" }), cell(number(Math.round(site.failures)), "number"),
    cell(share(site.share, 1), "number"), cell(shares(site.reasons), "words"),
    cell(site.name ? `${site.name} (${Math.round(100 * site.name_share)}\u00a0%)` : "none", "words")), "");
}

function fact(name, value, className = null) {
  return [el("dt", {}, name), el("dd", { class: className }, value)];
}

function describeRefreshes(history, scope) {
  const label = scope ?? "unknown";
  const results = Object.entries(history.totals.refreshes).filter(([key]) => key.startsWith(`${label} `));
  const good = results.find(([key]) => key === `${label} success`)?.[1] ?? 0;
  const bad = results.filter(([key]) => key !== `${label} success`);
  const kinds = bad.map(([key, count]) => `${key.slice(label.length + 1)} ${number(count)}`).join(", ");
  const failed = bad.reduce((total, [, count]) => total + count, 0);
  return [`${number(good)} succeeded, ${failed ? `${number(failed)} failed: ${kinds}` : "none failed"}`, failed > 0];
}

function showProgrammes(state) {
  const width = Math.max(280, Math.floor((byId("programmes").clientWidth - 32) / (byId("programmes").clientWidth > 900 ? 2 : 1)));
  const minuteMs = Math.floor(state.now_ms / 60000) * 60000;
  render("programmes", [state.programmes, state.history.totals.refreshes, minuteMs, width], () => state.programmes.map((programme) => {
    const keys = programme.keys;
    const [refreshes, hasFailed] = describeRefreshes(state.history, programme.scope);
    const counts = keys ? `${number(keys.active)} active, ${number(keys.future)} not yet, ${number(keys.expired)} expired` : "none yet";
    return el("div", {},
      el("h3", {}, programme.scope ?? "The only programme"),
      el("dl", { class: "facts" },
        ...fact("keys", counts + (keys && keys.skipped ? `; ${number(keys.skipped)} malformed entries skipped` : ""), keys && keys.active ? null : "bad"),
        ...(keys ? fact("sites", `${number(keys.sites)} with registered names`) : []),
        ...fact("last refresh", ago(programme.last_success_ms, state.now_ms) + (programme.from_cache ? ", from the cache" : "")),
        ...fact("next refresh", ahead(programme.next_refresh_ms, state.now_ms)),
        ...fact("in the last hour", refreshes, hasFailed ? "bad" : null),
        ...(programme.last_error ? fact("last failure", programme.last_error, "bad") : [])),
      keys && keys.lives.length ? el("div", { class: "lives" }, lives(keys, state.now_ms / 1000, width)) : null,
      keys && keys.lives.length ? livesTable(keys, programme.scope, state.now_ms / 1000) : null);
  }));
}

const lifeState = ([, activates, expires], nowS) => (expires <= nowS ? "past" : (activates ?? 0) > nowS ? "future" : "active");

/** The lives of keys on a time line around now, at most 45 days to either side. */
function lives(keys, nowS, width) {
  const limit = 45 * 86400;
  const from = Math.max(nowS - limit, Math.min(nowS - 3600, ...keys.lives.map(([, activates]) => activates ?? nowS)));
  const to = Math.min(nowS + limit, Math.max(nowS + 3600, ...keys.lives.map(([, , expires]) => expires)));
  const few = keys.lives.length <= 12;
  const [pitch, thick, left] = few ? [16, 10, 52] : [5, 3.5, 0];
  const top = 18;
  const height = top + keys.lives.length * pitch + 4;
  const x = (timeS) => left + ((Math.min(to, Math.max(from, timeS)) - from) / (to - from)) * (width - left);
  const nowX = x(nowS);
  const parts = ticks(from, to, width).filter(([timeS]) => Math.abs(x(timeS) - nowX) > 34 && x(timeS) > left + 20 && x(timeS) < width - 24).flatMap(([timeS, text]) => [
    svg("line", { class: "grid", x1: x(timeS), x2: x(timeS), y1: top - 2, y2: height }),
    svg("text", { x: x(timeS), y: 11, "text-anchor": "middle" }, text),
  ]);
  keys.lives.forEach((life, place) => {
    const [id, activates, expires] = life;
    const y = top + place * pitch;
    const begin = x(activates ?? from);
    if (few) parts.push(svg("text", { x: left - 8, y: y + thick - 1, "text-anchor": "end" }, String(id)));
    parts.push(svg("rect", { class: lifeState(life, nowS), x: begin, y, height: thick, width: Math.max(2, x(expires) - begin), rx: 2 },
      svg("title", {}, `key ${id}: ${activates ? isoTime(activates * 1000) : "always"} to ${isoTime(expires * 1000)}`)));
  });
  parts.push(svg("line", { class: "now", x1: nowX, x2: nowX, y1: top - 4, y2: height }));
  parts.push(svg("text", { class: "now-label", x: nowX, y: 11, "text-anchor": "middle" }, "now"));
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Lives of ${keys.lives.length} keys on a time line. The table below has their times.` }, ...parts);
}

function ticks(from, to, width) {
  const steps = [3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 5 * 86400, 7 * 86400, 14 * 86400, 30 * 86400];
  const step = steps.find((each) => (to - from) / each <= width / 80) ?? 30 * 86400;
  const found = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const iso = isoTime(time * 1000);
    found.push([time, step < 86400 && time % 86400 ? iso.slice(11, 16) : iso.slice(5, 10)]);
  }
  return found;
}

function livesTable(keys, scope, nowS) {
  const words = { active: "active", future: "not yet", past: "expired" };
  const label = `Keys of ${scope ?? "the programme"}`;
  return el("details", {},
    el("summary", {}, keys.count > keys.lives.length ? `The ${keys.lives.length} keys that expire next, of ${number(keys.count)}` : "As a table"),
    el("div", { class: "scroll tall", tabindex: "0", role: "group", "aria-label": label },
      el("table", {},
        el("thead", {}, el("tr", {}, ...["key", "state", "activates", "expires"].map((text) => el("th", { scope: "col" }, text)))),
        el("tbody", {}, ...keys.lives.map((life) => el("tr", {}, head(String(life[0])), cell(words[lifeState(life, nowS)]),
          cell(life[1] ? isoTime(life[1] * 1000) : "always", "nowrap"), cell(isoTime(life[2] * 1000), "nowrap")))))));
}

function showWorkers(workers) {
  renderRows("workers", workers, (worker) => el("tr", {},
    head(`${worker.pid}${worker.answers ? " (this answer)" : ""}`, { class: "nowrap" }),
    cell(worker.accepting ? "serving" : "not serving", worker.accepting ? "good" : "bad"),
    cell(number(worker.restarts), "number"), cell(number(worker.hung), worker.hung ? "number bad" : "number"),
    cell(`${worker.lag_ms.toFixed(1)} ms`, "number"), cell(`${worker.heartbeat_age_s.toFixed(1)} s ago`, "number")), "");
}

function showOptouts(optouts, nowMs) {
  if (!optouts) {
    render("optouts", null, () => el("p", { class: "empty" }, "There is no opt-out store: raw uids are answered without a look-up."));
    return;
  }
  const { position, stream } = optouts;
  render("optouts", [optouts, Math.floor(nowMs / 1000)], () => el("dl", { class: "facts" },
    ...fact("raw uids in the store", number(optouts.count)),
    ...fact("newest opt-out", ago(optouts.applied, nowMs)),
    ...fact("position", position ? `${number(position.sequence)} in epoch ${position.epoch.slice(0, 8)}…` : "none"),
    ...(stream ? fact("stream", stream.connected ? "connected" : "not connected", stream.connected ? null : "bad") : []),
    ...(stream ? fact("last level with it", ago(optouts.last_contact, nowMs), optouts.stale ? "bad" : null) : []),
    ...(stream ? fact("still to be sent", number(stream.owed)) : []),
    ...fact("stale", optouts.stale ? "yes" : "no", optouts.stale ? "bad" : null)));
}

function showSettings(settings) {
  const showsAll = byId("all-settings").checked;
  const rows = settings.filter((setting) => showsAll || setting.origin !== "default");
  renderRows("settings", rows, (setting) => el("tr", {},
    head(breakable(setting.name), { class: "mono" }), cell(setting.value === "" ? "none" : setting.value, setting.value === "" ? "empty" : "mono"),
    cell(setting.origin)), "Every setting has its default.");
}

function showHealth(state) {
  const isReady = state.ready.status === "ok";
  byId("health").textContent = isReady ? "ready" : `not ready: ${state.ready.reason}`;
  byId("health").dataset.tone = isReady ? "good" : "bad";
  byId("version").textContent = state.version;
  byId("vitals").textContent = `up ${span(state.uptime_s)} · ${state.native ? "native kernel" : "no native kernel"} · Python ${state.python}`;
}

function show(state) {
  lastState = state;
  showHealth(state);
  showTokens(state.history);
  showFailures(state.history, state.failures);
  showProgrammes(state);
  showWorkers(state.workers);
  showOptouts(state.optouts, state.now_ms);
  showSettings(state.settings);
}

// Requests.

class NotAllowed extends Error {}

async function request(path, body = undefined) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST", headers, body, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (response.status === 401) throw new NotAllowed();
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `the service answered ${response.status}`);
  }
  return response;
}

function announce(text, tone = "warn") {
  const place = byId("announcement");
  place.hidden = !text;
  place.dataset.tone = tone;
  place.textContent = text;
}

function askForBearer() {
  const isNew = byId("access").hidden;
  byId("access").hidden = false;
  if (bearer) announce("The service does not accept this bearer token.", "bad");
  bearer = "";
  if (isNew) byId("bearer").focus();
}

let timer = 0;

async function refresh() {
  clearTimeout(timer);
  try {
    const state = await (await request("/console/state")).json();
    lastContactMs = Date.now();
    if (!byId("access").hidden) {
      byId("access").hidden = true;
      announce("");
    }
    show(state);
  } catch (error) {
    if (error instanceof NotAllowed) {
      byId("health").textContent = "needs the bearer token";
      byId("health").dataset.tone = "warn";
      askForBearer();
      return; // until there is one
    }
    byId("health").textContent = "no answer";
    byId("health").dataset.tone = "bad";
  }
  if (!isPaused && !document.hidden) timer = setTimeout(refresh, PERIOD_MS);
}

function showContact() {
  byId("contact").textContent = lastContactMs ? `${isPaused ? "paused, " : ""}updated ${span((Date.now() - lastContactMs) / 1000)} ago` : "";
}

// The explanation.

const looksLikeJson = (text) => /^\s*[{[]/.test(text);

function describeSubject() {
  const text = byId("subject").value;
  byId("subject-kind").textContent = !text.trim()
    ? "Nothing that you enter is stored, logged or counted."
    : looksLikeJson(text)
      ? "Read as a bid request. The names of its site or app count, and the sources of its eids tell the programmes."
      : "Read as a token.";
}

function requestBody() {
  const subject = byId("subject").value;
  if (!looksLikeJson(subject)) {
    const token = subject.trim();
    return JSON.stringify({ token, domain: byId("domain").value.trim() || null, scope: byId("scope").value || null });
  }
  try {
    JSON.parse(subject);
    return `{"bid_request":${subject}}`; // as it came: of duplicate names, both count
  } catch {
    return JSON.stringify({ bid_request: subject });
  }
}

const tone = (status) => (status === "SUCCESS" ? "good" : "bad");

const words = (name) => (name === "optout" ? "opt-out" : name.replaceAll("_", " "));

function verdictParts(told) {
  return [
    el("strong", {}, told.status),
    told.reason ? el("span", {}, words(told.reason)) : null,
    told.scope ? el("span", {}, told.scope) : null,
    told.uid ? el("span", { class: "mono" }, `raw uid ${told.uid}`) : null,
    told.established ? el("span", { class: "quiet" }, `established ${isoTime(told.established)}`) : null,
  ].filter(Boolean);
}

function story(told) {
  const reached = told.steps.filter((step) => step.outcome !== "not_reached");
  const rest = told.steps.filter((step) => step.outcome === "not_reached").map((step) => words(step.name));
  const line = (outcome, what, text) => el("li", { "data-outcome": outcome },
    el("span", { class: "mark", "aria-hidden": "true" }, MARKS[outcome]),
    el("span", { class: "what" }, what, el("span", { class: "hidden" }, `, ${OUTCOMES[outcome]}: `)),
    el("span", { class: "text" }, text));
  return [
    told.advice || told.runbook ? el("p", { class: "advice" }, told.advice, told.runbook ? " More: " : "", told.runbook ? el("code", {}, told.runbook) : "") : null,
    el("ol", { class: "steps" },
      ...reached.map((step) => line(step.outcome, words(step.name), step.text)),
      rest.length ? line("not_reached", "not reached", rest.join(", ")) : null),
  ];
}

function asJson(told) {
  return el("details", {}, el("summary", {}, "As JSON, for a ticket"), el("pre", { tabindex: "0", role: "group", "aria-label": "The explanation as JSON" }, JSON.stringify(told, null, 2)));
}

function showToken(told) {
  byId("verdict").dataset.tone = tone(told.status);
  byId("verdict").replaceChildren(...verdictParts(told));
  byId("telling").replaceChildren(...story(told).filter(Boolean), asJson(told));
}

function eidBlock(eid) {
  const told = eid.explanation;
  const title = el("p", { class: "eid-verdict", "data-tone": told ? tone(told.status) : "warn" },
    ...(told ? verdictParts(told) : [el("strong", {}, "not ours")]),
    el("span", { class: "mono" }, `${eid.source || "no source"} at ${eid.path}`));
  return el("div", { class: "eid" }, title,
    eid.why_not_ours ? el("p", {}, eid.why_not_ours) : null,
    eid.spelling ? el("p", { class: "advice" }, eid.spelling) : null,
    ...(told ? (told.status === "SUCCESS" ? [el("details", {}, el("summary", {}, "Each check"), ...story(told).filter(Boolean))] : story(told)) : []));
}

function showBidRequest(told) {
  const ours = told.eids.filter((eid) => eid.explanation);
  const good = ours.filter((eid) => eid.explanation.status === "SUCCESS").length;
  byId("verdict").dataset.tone = good ? "good" : "bad";
  byId("verdict").replaceChildren(
    el("strong", {}, `${good} of ${ours.length} ${ours.length === 1 ? "id" : "ids"}`),
    el("span", {}, told.id === null ? "bid request without an id" : `bid request ${told.id}`),
    el("span", { class: "quiet" }, told.names.length ? `names: ${told.names.map((each) => `${each.name} (${each.field})`).join(", ")}` : "no name of a site or app"));
  byId("telling").replaceChildren(
    ...(told.eids.length ? told.eids.map(eidBlock) : [el("p", { class: "placeholder" }, "It has no eids.")]),
    ...(told.omitted ? [el("p", { class: "quiet" }, `${number(told.omitted)} more are not listed.`)] : []), asJson(told));
}

/** Do what a button is for, once at a time. A disabled button would lose the focus. */
async function once(button, act) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  try {
    await act();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

async function explain() {
  try {
    const told = await (await request("/console/explain", requestBody())).json();
    if (told.eids) showBidRequest(told);
    else showToken(told);
  } catch (error) {
    byId("telling").replaceChildren();
    byId("verdict").dataset.tone = "bad";
    byId("verdict").replaceChildren(el("strong", {}, "no explanation"), el("span", {}, error instanceof NotAllowed ? "the bearer token is needed" : error.message));
    if (error instanceof NotAllowed) askForBearer();
  }
}

async function download() {
  try {
    const url = URL.createObjectURL(await (await request("/console/bundle", "{}")).blob());
    el("a", { href: url, download: `bidstream-svc-${isoTime(Date.now()).replaceAll(":", "")}.zip` }).click();
    setTimeout(() => URL.revokeObjectURL(url), TIMEOUT_MS);
    announce("The support bundle is downloaded. It has no secrets, tokens, ids or names of sites.");
  } catch (error) {
    if (error instanceof NotAllowed) askForBearer();
    else announce(`The support bundle could not be made: ${error.message}`, "bad");
  }
}

// Events.

byId("explain").addEventListener("submit", (event) => {
  event.preventDefault();
  once(byId("submit"), explain);
});
byId("subject").addEventListener("input", describeSubject);
byId("subject").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("explain").requestSubmit();
});
byId("bundle").addEventListener("click", () => once(byId("bundle"), download));
byId("all-settings").addEventListener("change", () => lastState && showSettings(lastState.settings));
byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  if (!isPaused) refresh();
  showContact();
});
byId("access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  bearer = byId("bearer").value.trim();
  byId("bearer").value = "";
  refresh();
});
document.addEventListener("visibilitychange", () => !document.hidden && !isPaused && refresh());
addEventListener("resize", () => lastState && showProgrammes(lastState));
setInterval(showContact, 1000);
describeSubject();
refresh();
