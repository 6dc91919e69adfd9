// The table of all rows: only those in view are in the document.
// Browsers limit the height of an element; beyond this one, rows are scrolled in proportion.
const TALLEST = 12e6;
const grid = $("grid"), body = $("grid-body"), headRow = $("grid-head");
let page, view = new Uint32Array(0), at = 0, haystack = null, shownColumns = [];
const state = { query: 0, sort: "", down: false, search: "", label: "", only: "" };

const rowHeight = () => parseFloat(getComputedStyle(grid).getPropertyValue("--row")) || 36;
const HEAD = 42;

const columnsOf = (head) => {
  const numbers = head.columnList.filter((column) => column.kind === "number");
  const texts = head.columnList.filter((column) => column.kind !== "number");
  return [
    { key: "id", name: "row", rem: 5.5 },
    { key: "score", name: "score", number: true, rem: 6 },
    { key: "rank", name: "rank", number: true, rem: 4.5, minor: true },
    ...texts.map(({ name }) => ({ key: name, name, rem: 6, minor: true })),
    { key: "text", name: "text", rem: 18, text: true },
    ...numbers.map(({ name }) => ({ key: name, name, number: true, rem: 7.5, minor: true })),
  ];
};

/** The values that a column is sorted by. */
const valuesOf = (key) => {
  if (key === "score") return page.scores;
  if (key === "rank") return page.ranks;
  if (key === "text") return page.texts;
  if (key === "id") return page.ids;
  return page.columns[key];
};
const cellOf = (key, row) => {
  const value = valuesOf(key)?.[row];
  if (key === "score") return signed(value);
  if (key === "rank") return value === undefined ? "–" : counted(value);
  if (key === "id") return String(value);
  if (typeof value === "boolean") return value ? "yes" : "";
  return typeof value === "number" ? digits(value, 4) : value ?? "";
};
const isText = (key) => typeof valuesOf(key)?.[0] === "string";
const naturally = new Intl.Collator("en", { numeric: true });

const ranksOf = (scores) => {
  const order = Uint32Array.from(scores, (_, row) => row).sort((a, b) => scores[b] - scores[a] || a - b);
  const ranks = new Uint32Array(scores.length);
  order.forEach((row, place) => { ranks[row] = place + 1; });
  return ranks;
};

const placesOf = (values) => {
  const places = new Map([...new Set(values)].sort(naturally.compare).map((value, place) => [value, place]));
  return values.map((value) => places.get(value));
};

const select = () => {
  const needle = state.search.trim().toLowerCase();
  if (needle && !haystack) {
    const labels = page.columns.label;
    haystack = page.texts.map((text, row) => `${page.ids[row]}\n${labels ? labels[row] : ""}\n${text}`.toLowerCase());
  }
  const { label, only } = state;
  const labels = page.columns.label, flags = only && only !== "harms" && only !== "helps" ? page.columns[only] : null;
  const kept = (row) =>
    (!needle || haystack[row].includes(needle)) && (!label || labels[row] === label) && (!flags || flags[row]) &&
    (only !== "helps" || page.scores[row] > 0) && (only !== "harms" || page.scores[row] < 0);
  const found = [];
  for (let row = 0; row < page.count; row++) if (kept(row)) found.push(row);
  view = Uint32Array.from(found);
  order();
};

const order = () => {
  const values = valuesOf(state.sort);
  if (values) {
    const sign = state.down ? -1 : 1;
    // Places among the different values, of which there are few, or texts as they are.
    const places = isText(state.sort) && state.sort !== "text" ? placesOf(values) : values;
    const compare = state.sort === "text"
      ? (a, b) => (values[a] === values[b] ? a - b : sign * (values[a] < values[b] ? -1 : 1))
      : (a, b) => sign * (places[a] - places[b]) || a - b;
    view.sort(compare);
  } else {
    view.sort();
  }
  at = Math.min(at, Math.max(0, view.length - 1));
  const total = counted(page.count);
  $("count").textContent = view.length === page.count ? `${total} rows` : `${counted(view.length)} of ${total} rows`;
  grid.setAttribute("aria-rowcount", view.length + 1);
  for (const head of headRow.children) {
    const sorted = head.dataset.key === state.sort;
    head.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    head.firstChild.lastChild.textContent = sorted ? (state.down ? " ▼" : " ▲") : "";
  }
  render();
};

const sortName = () => (state.sort ? `${state.sort} ${state.down ? "desc" : "asc"}` : "");

const sortBy = (key, down) => {
  const first = key === "score" || (page.columns[key] && !isText(key));
  state.down = down ?? (state.sort === key ? !state.down : first);
  state.sort = key;
  at = 0;
  grid.scrollTop = 0;
  order();
  remember();
};

/** The heights of all rows together, and of what is scrolled. */
const heights = () => {
  const all = view.length * rowHeight();
  return { all, tall: Math.min(all, TALLEST) };
};
const inView = () => Math.max(1, Math.floor((grid.clientHeight - HEAD) / rowHeight()));

const render = () => {
  const { all, tall } = heights();
  const height = rowHeight(), seen = grid.clientHeight - HEAD;
  body.style.height = `${tall}px`;
  const scrolled = Math.min(grid.scrollTop, Math.max(0, tall - seen));
  const top = tall < all ? (scrolled / Math.max(1, tall - seen)) * (all - seen) : scrolled;
  const first = Math.max(0, Math.floor(top / height) - 4);
  const last = Math.min(view.length, Math.ceil((top + seen) / height) + 4);
  const needle = state.search.trim().toLowerCase();
  const made = [];
  for (let place = first; place < last; place++) {
    const row = view[place];
    const line = el("div", { role: "row", class: place === at ? "grow-row at" : "grow-row", id: `r${place}`,
      "aria-rowindex": place + 2, "aria-selected": place === at ? "true" : "false" });
    line.style.transform = `translateY(${place * height - top + scrolled}px)`;
    line.style.gridTemplateColumns = body.dataset.columns;
    for (const column of shownColumns) line.append(cell(column, row, needle));
    line.addEventListener("click", () => { at = place; render(); openRow(row); });
    made.push(line);
  }
  body.replaceChildren(...made);
  if (at >= first && at < last) grid.setAttribute("aria-activedescendant", `r${at}`);
  else grid.removeAttribute("aria-activedescendant");
};

const cell = (column, row, needle) => {
  const kinds = ["cell", column.number ? "n" : "", column.minor ? "minor" : "", column.text ? "text" : ""];
  const found = el("div", { role: "gridcell", class: kinds.filter(Boolean).join(" ") });
  if (column.text) {
    const picture = page.pictures[row];
    if (picture) found.append(el("img", { src: `data:image/png;base64,${picture}`, alt: "" }));
    found.dir = "auto";
    found.append(...words(page.texts[row].slice(0, 400), needle));
  } else {
    const text = cellOf(column.key, row);
    found.append(...(column.number ? [text] : words(text, needle)));
    if (column.key === "score") found.classList.add("score", side(page.scores[row]) || "quiet");
  }
  return found;
};

/** Brings a place of the view into sight. */
const show = (place) => {
  at = Math.max(0, Math.min(view.length - 1, place));
  const { all, tall } = heights();
  const height = rowHeight(), seen = grid.clientHeight - HEAD;
  const scale = tall < all ? (tall - seen) / (all - seen) : 1;
  const top = grid.scrollTop / scale;
  if (at * height < top) grid.scrollTop = at * height * scale;
  else if ((at + 1) * height > top + seen) grid.scrollTop = ((at + 1) * height - seen) * scale;
  render();
};

const layOut = () => {
  const narrow = matchMedia("(max-width: 46rem)").matches;
  const columns = columnsOf(page);
  shownColumns = narrow ? columns.filter((column) => !column.minor) : columns;
  const rem = narrow ? { id: 3.5, score: 5.5, text: 8 } : {};
  const width = ({ key, rem: usual, text }) => (text ? `minmax(${rem[key] ?? usual}rem, 1fr)` : `${rem[key] ?? usual}rem`);
  body.dataset.columns = shownColumns.map(width).join(" ");
  const least = shownColumns.reduce((sum, column) => sum + (rem[column.key] ?? column.rem) + 0.8, 0.6);
  for (const part of [headRow, body]) part.style.minWidth = `${least}rem`;
  headRow.style.gridTemplateColumns = body.dataset.columns;
  grid.setAttribute("aria-colcount", shownColumns.length);
  headRow.replaceChildren(...shownColumns.map((column) => {
    const button = el("button", { type: "button", onclick: () => sortBy(column.key) }, column.name, el("span", { "aria-hidden": "true" }));
    return el("div", { role: "columnheader", class: column.number ? "n" : "", "data-key": column.key }, button);
  }));
  const sorts = $("sort");
  sorts.replaceChildren(el("option", { value: "" }, "as in the file"), ...columns.flatMap(({ key, name }) => [
    el("option", { value: `${key} asc` }, `${name}, ascending`), el("option", { value: `${key} desc` }, `${name}, descending`),
  ]));
  sorts.value = sortName();
};

const keysOfGrid = (event) => {
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: inView(), PageUp: -inView(), Home: -Infinity, End: Infinity };
  if (event.target !== grid || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in moves) {
    event.preventDefault();
    show(Math.max(0, Math.min(view.length - 1, at + moves[event.key])));
  } else if ((event.key === "Enter" || event.key === " ") && view.length) {
    event.preventDefault();
    openRow(view[at]);
  }
};
