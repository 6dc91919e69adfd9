// Charts are drawn again when the theme or the width changes.
const drawn = new Map();

const chart = (place, make) => {
  drawn.set(place, make);
  redraw(place);
};
const redraw = (place) => {
  const width = place.clientWidth;
  if (width < 40) return;
  place.replaceChildren();
  const { options, data } = drawn.get(place)();
  const axis = (more) => ({
    stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 },
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", ...more,
  });
  const axes = options.axes.map(axis);
  new uPlot({ width, height: 260, legend: { show: false }, ...options, axes }, data, place);
};
const redrawAll = () => { for (const place of drawn.keys()) redraw(place); };

const keys = (list, entries) => list.replaceChildren(...entries.map(([name, paint]) => {
  const mark = el("i");
  mark.style.background = `var(${paint})`;
  return el("li", {}, mark, name);
}));

/** Counts of values; the outermost thousandth at either end is in the first and the last bar. */
const histogram = (values, bins) => {
  const sorted = Float32Array.from(values).sort();
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
  let [low, high] = sorted.length > 2000 ? [at(0.001), at(0.999)] : [sorted[0], sorted[sorted.length - 1]];
  if (!(high > low)) [low, high] = [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  const width = (high - low) / bins;
  const place = (value) => Math.min(bins - 1, Math.max(0, Math.floor((value - low) / width)));
  const middles = Array.from({ length: bins }, (_, bin) => low + (bin + 0.5) * width);
  return { place, middles, sorted, at, width };
};

const distribution = (values, known) => {
  const bins = Math.max(8, Math.min(60, Math.round(2 * Math.sqrt(values.length))));
  const { place, middles, sorted, at, width } = histogram(values, bins);
  const [all, bad] = [new Array(bins).fill(0), new Array(bins).fill(0)];
  for (let i = 0; i < values.length; i++) {
    const bin = place(values[i]);
    all[bin]++;
    if (known && known[i]) bad[bin]++;
  }
  const harms = sorted.findIndex((value) => value >= 0);
  const below = harms < 0 ? sorted.length : harms;
  const share = (count) => `${(100 * count / values.length).toFixed(1)} %`;
  const text = `${counted(values.length)} scores from ${signed(sorted[0])} to ${signed(sorted[sorted.length - 1])}, ` +
    `median ${signed(at(0.5))}; ${share(below)} are below 0.`;
  const root = (counts) => counts.map((count) => (count ? Math.sqrt(count) : null));
  const bars = (paint, soft) => ({
    stroke: color(paint), fill: color(soft), width: 1, points: { show: false }, paths: uPlot.paths.bars({ size: [0.95] }),
  });
  chart($("spread"), () => ({
    options: {
      scales: { x: { time: false, range: () => [middles[0] - width, middles[bins - 1] + width] },
        y: { range: (_, low, high) => [0, 1.05 * high] } },
      series: [{}, bars("--strong", "--line"), ...(known ? [bars("--known", "--known")] : [])],
      axes: [{ label: "score", values: (_, ticks) => ticks.map(short) },
        { label: "rows, by square root", size: 64, values: (_, ticks) => ticks.map((tick) => counted(Math.round(tick * tick))) }],
      cursor: { show: false },
    },
    data: [middles, root(all), ...(known ? [root(bad)] : [])],
  }));
  keys($("spread-keys"), known ? [["all rows", "--strong"], ["known to be bad", "--known"]] : []);
  $("spread").setAttribute("aria-label", text);
  $("spread-text").textContent = text;
};

const short = (tick) => String(Number(tick.toPrecision(3))).replace("-", "−");
const PAINTS = ["--strong", "--harms", "--helps", "--known"], CHANCE = "chance";
const paintOf = (name, place) => (name === CHANCE ? "--soft" : PAINTS[place % PAINTS.length]);
const curve = (name, place, list) => ({
  label: name, stroke: color(paintOf(name, place)), width: 2, points: { show: list.length < 40, size: 6 },
  dash: name === CHANCE || place >= PAINTS.length ? [6, 4] : undefined, spanGaps: false,
});

/** Lines over one x; `lines` is a list of [name, values]. */
const lines = (place, list, x, lines, { log = false, label, range, percent = false }) => {
  const shown = (tick) => (percent ? `${Math.round(100 * tick)} %` : short(tick));
  chart(place, () => ({
    options: {
      scales: { x: { time: false, distr: log ? 3 : 1 }, y: { range } },
      series: [{}, ...lines.map(([name], at) => curve(name, at, x))],
      axes: [{ label, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick))) },
        { size: 56, values: (_, ticks) => ticks.map(shown) }],
      cursor: { drag: { x: false, y: false } },
    },
    data: [x, ...lines.map(([, values]) => values)],
  }));
  keys(list, lines.map(([name], at) => [name, paintOf(name, at)]));
};

const detection = (found) => {
  if (!found.length) return;
  const x = found[0].points.map((_, place) => place / (found[0].points.length - 1));
  const chance = [CHANCE, x];
  lines($("found"), $("found-keys"), x, [...found.map((one) => [one.name, one.points]), chance],
    { label: "share of the rows looked at", range: [0, 1], percent: true });
};

const stability = (variants) => {
  if (!variants.length) return;
  const x = variants[0].damping;
  const all = variants.flatMap(({ name, lines }) => lines.map(([what, values]) => [name ? `${name}: ${what}` : what, values]));
  const least = Math.min(0, ...all.flatMap(([, values]) => values.filter((value) => value !== null)));
  lines($("stable"), $("stable-keys"), x, all, { label: "damping", log: true, range: [least, 1] });
};
