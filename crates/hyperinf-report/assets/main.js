// The state of the page is in its address, so that a view can be sent to somebody.
const remember = () => {
  const parts = new URLSearchParams();
  if (state.query) parts.set("query", state.query);
  if (state.sort) parts.set("sort", sortName());
  for (const key of ["search", "label", "only"]) if (state[key]) parts.set(key, state[key]);
  $("sort").value = sortName();
  try { history.replaceState(null, "", `#${parts}`); } catch { /* a page in a frame has no address */ }
};

const heatOf = (query, row) => page.heat?.[query]?.[row];

/** A text with the score of each token as colour. */
const heated = ([tokens, scores]) => {
  const largest = Math.max(...scores.map(Math.abs)) || 1;
  return tokens.map((token, place) => {
    const share = Math.abs(scores[place]) / largest;
    const found = el("span", { title: `${token.trim()}: ${signed(scores[place])}` }, ...words(token));
    if (share > 0.03) {
      const paint = scores[place] < 0 ? "--harms" : "--helps";
      found.style.backgroundColor = `color-mix(in srgb, var(${paint}) ${Math.round(8 + 57 * share)}%, transparent)`;
    }
    return found;
  });
};

const textOf = (row, short) => {
  const heat = heatOf(state.query, row);
  const kinds = `words${short ? " short" : ""}${heat ? " heat" : ""}`;
  const found = el("div", { class: kinds, dir: "auto" }, ...(heat ? heated(heat) : words(page.texts[row])));
  const length = page.lengths[row];
  if (length && !heat) found.append(el("small", { class: "quiet" }, ` … (${counted(length)} characters; cut in this page)`));
  return found;
};

const labelsOf = (row) => [
  ...["label", "predicted"].filter((key) => page.columns[key]?.[row]).map((key) =>
    el("span", { class: "chip" }, ...(key === "predicted" ? ["model: "] : []), ...words(page.columns[key][row]))),
  page.columns["known bad"]?.[row] ? el("span", { class: "chip known" }, "known to be bad") : null,
];

const ends = (list, entries) => {
  const largest = Math.max(...entries.map(([, score]) => Math.abs(score))) || 1;
  list.replaceChildren(...entries.map(([row, score]) => {
    const line = el("i");
    line.style.width = `${100 * Math.abs(score) / largest}%`;
    const text = textOf(row, true);
    const picture = page.pictures[row];
    const more = el("button", { type: "button", class: "link", onclick: () => openRow(row) }, "row ", ...words(String(page.ids[row])));
    return el("li", {},
      el("span", { class: `score ${side(score)}` }, signed(score)),
      el("span", { class: "who" }, more, ...labelsOf(row)),
      el("div", { class: score < 0 ? "line harm" : "line", "aria-hidden": "true" }, line),
      picture ? el("img", { class: "thumb", src: `data:image/png;base64,${picture}`, alt: `the picture of row ${page.ids[row]}` }) : null,
      text);
  }));
  if (!entries.length) list.append(el("li", {}, "None."));
};

/** The tokens with the largest scores, for those who do not see colors. */
const strongest = ([tokens, scores]) => {
  const order = scores.map((_, place) => place).sort((a, b) => Math.abs(scores[b]) - Math.abs(scores[a])).slice(0, 10);
  const line = (place) => el("tr", {}, el("td", { dir: "auto" }, ...words(tokens[place])), el("td", { class: `n score ${side(scores[place])}` }, signed(scores[place])));
  return el("table", {}, el("tr", {}, el("th", { scope: "col" }, "token"), el("th", { scope: "col", class: "n" }, "score")), ...order.map(line));
};

const openRow = (row) => {
  const facts = columnsOf(page).filter(({ key }) => key !== "text").map(({ key, name }) =>
    [el("dt", {}, name), el("dd", {}, ...words(cellOf(key, row)))]).flat();
  const picture = page.pictures[row];
  $("row-title").replaceChildren("Row ", ...words(String(page.ids[row])));
  $("row-inside").replaceChildren(el("dl", {}, ...facts), ...(picture ? [el("p", {}, el("img", { class: "thumb", src: `data:image/png;base64,${picture}`, alt: `the picture of row ${page.ids[row]}` }))] : []), textOf(row, false), ...(heatOf(state.query, row) ? [strongest(heatOf(state.query, row))] : []));
  $("row").showModal();
};

const ask = async (number) => {
  state.query = Math.max(0, Math.min(page.queries.length - 1, number));
  const query = page.queries[state.query];
  $("query").value = state.query;
  $("before").disabled = state.query === 0;
  $("after").disabled = state.query === page.queries.length - 1;
  const asked = $("asked");
  asked.replaceChildren(...(query.picture ? [el("img", { class: "thumb", src: `data:image/png;base64,${query.picture}`, alt: "the picture of the query" })] : []),
    el("div", { class: "words", dir: "auto" }, ...words(query.text)),
    ...(query.label ? [el("span", { class: "chip" }, ...words(query.label))] : []));
  if (query.length) asked.append(el("small", { class: "quiet" }, ` … (${counted(query.length)} characters; cut in this page)`));
  ends($("helpful"), query.helpful);
  ends($("harmful"), query.harmful);
  $("heat-scale").hidden = !page.heat?.[state.query];
  $("unscored").hidden = query.scores !== null;
  page.scores = query.scores === null ? new Float32Array(page.count).fill(NaN) : await floats(query.scores);
  if (query.scores === null) for (const [row, score] of [...query.helpful, ...query.harmful]) page.scores[row] = score;
  page.ranks = query.scores === null ? undefined : ranksOf(page.scores);
  if (query.scores === null) $("spread-text").textContent = "The scores of this query are not in this page.";
  else distribution(page.scores, page.columns["known bad"]);
  select();
};

const options = (list, entries) => list.append(...entries.map(([value, text]) => el("option", { value }, text)));
const excerpt = (text) => (text.length > 80 ? `${text.slice(0, 80)}…` : text);

const listen = () => {
  let waiting;
  $("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.search = event.target.value; at = 0; grid.scrollTop = 0; select(); remember(); }, 120);
  });
  for (const key of ["label", "only"]) {
    $(`by-${key}`).addEventListener("change", (event) => { state[key] = event.target.value; at = 0; grid.scrollTop = 0; select(); remember(); });
  }
  $("sort").addEventListener("change", (event) => {
    const cut = event.target.value.lastIndexOf(" ");
    sortBy(event.target.value.slice(0, Math.max(0, cut)), event.target.value.endsWith("desc"));
  });
  const go = async (number) => { await ask(number); remember(); };
  $("query").addEventListener("change", (event) => go(Number(event.target.value)));
  $("before").addEventListener("click", () => go(state.query - 1));
  $("after").addEventListener("click", () => go(state.query + 1));
  $("close").addEventListener("click", () => $("row").close());
  $("row").addEventListener("close", () => { if (view.length) grid.focus({ preventScroll: true }); });
  grid.addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  grid.addEventListener("keydown", keysOfGrid);
  let width = 0;
  new ResizeObserver(() => {
    if (width === document.body.clientWidth) return;
    width = document.body.clientWidth;
    layOut();
    order();
    redrawAll();
  }).observe(document.body);
};

const themes = () => {
  const names = ["auto", "light", "dark"], button = $("theme");
  const set = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
    redrawAll();
  };
  button.addEventListener("click", () => set(names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  set(new URLSearchParams(location.hash.slice(1)).get("theme") ?? "auto");
};

const start = async () => {
  themes();
  for (const bar of document.querySelectorAll(".share")) bar.style.width = `${bar.dataset.share}rem`;
  page = await json("page");
  page.texts = await json("texts");
  page.ids ??= Array.from({ length: page.count }, (_, row) => row);
  page.pictures = page.pictures ? await json(page.pictures) : {};
  page.heat = page.heat ? await json(page.heat) : undefined;
  const columns = {};
  for (const { name, kind, block } of page.columns) {
    columns[name] = kind === "number" ? await floats(block) : await json(block);
  }
  [page.columns, page.columnList] = [columns, page.columns];
  const wanted = new URLSearchParams(location.hash.slice(1));
  options($("query"), page.queries.map((query, place) => [place, `${query.id === null ? "" : `${query.id}: `}${excerpt(query.text)}`]));
  const labels = columns.label ? [...new Set(columns.label)].sort(naturally.compare).slice(0, 500) : [];
  options($("by-label"), labels.map((label) => [label, label]));
  $("by-label").parentElement.hidden = labels.length < 2;
  options($("by-only"), page.columnList.filter(({ kind }) => kind === "flag").map(({ name }) => [name, name]));
  for (const key of ["search", "label", "only"]) state[key] = wanted.get(key) ?? "";
  [$("search").value, $("by-label").value, $("by-only").value] = [state.search, state.label, state.only];
  const [sort, way] = (wanted.get("sort") ?? "score asc").split(/ (?=\w+$)/);
  [state.sort, state.down] = [sort, way === "desc"];
  layOut();
  await ask(Number(wanted.get("query")) || 0);
  detection(page.detection);
  stability(page.dampings);
  listen();
  if (wanted.has("row")) show(Number(wanted.get("row")) || 0);
  if (wanted.has("open") && view.length) openRow(view[at]);
  remember();
  document.documentElement.dataset.ready = "yes";
};

const failed = (error) => {
  document.documentElement.dataset.failed = String(error);
  $("wait").textContent = `This page could not be read: ${error}`;
  $("wait").hidden = false;
};
addEventListener("error", (event) => failed(event.message));
addEventListener("unhandledrejection", (event) => failed(event.reason));
addEventListener("securitypolicyviolation", (event) => failed(`${event.violatedDirective}: ${event.blockedURI}`));
if (typeof DecompressionStream === "undefined") failed("the browser is older than 2023 and cannot unpack the data");
else start().then(() => { $("wait").hidden = true; }, failed);
