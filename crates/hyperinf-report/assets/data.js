// Blocks of the page: base64 of zlib, which no text can leave.
const $ = (id) => document.getElementById(id);

const unpacked = async (id) => {
  const text = $(id).textContent;
  let packed;
  if (Uint8Array.fromBase64) {
    packed = Uint8Array.fromBase64(text);
  } else {
    const raw = atob(text);
    packed = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) packed[i] = raw.charCodeAt(i);
  }
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
};
const json = async (id) => JSON.parse(new TextDecoder().decode(await unpacked(id)));
const floats = async (id) => new Float32Array(await unpacked(id));

/** An element; children are texts or elements, never markup. */
const el = (tag, attributes = {}, ...children) => {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") found.className = value;
    else if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else found.setAttribute(name, value === true ? "" : value);
  }
  found.append(...children.filter((child) => child !== null && child !== undefined));
  return found;
};

// Control characters, and those that turn the direction of text around, are spelled out.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/;
const spelled = (c) => `U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** A text as nodes; what was searched for is marked. */
const words = (text, needle = "") => {
  const nodes = [];
  const plain = (part) => {
    if (!needle) return nodes.push(part);
    const low = part.toLowerCase();
    // Some letters change their length in lower case: then places would be wrong.
    if (low.length !== part.length) return nodes.push(part);
    let from = 0;
    for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
      nodes.push(part.slice(from, at), el("mark", {}, part.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    nodes.push(part.slice(from));
  };
  let from = 0;
  if (HIDDEN.test(text)) {
    for (let i = 0; i < text.length; i++) {
      if (!HIDDEN.test(text[i])) continue;
      plain(text.slice(from, i));
      nodes.push(el("span", { class: "ctl" }, spelled(text[i])));
      from = i + 1;
    }
  }
  plain(text.slice(from));
  return nodes;
};

const digits = (value, count) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const shown = size >= 1e5 || size < 1e-3 ? value.toExponential(count - 1) : value.toPrecision(count);
  return shown.replace("-", "−").replace("e+", "e");
};
const signed = (value) => (value > 0 ? "+" : "") + digits(value, 4);
const counted = (value) => value.toLocaleString("en-US");
const side = (value) => (value < 0 ? "harms" : value > 0 ? "helps" : "");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
