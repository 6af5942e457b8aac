// The server's figures, from its Prometheus metrics: read every few seconds while the page can be seen.

import { askText } from "./api.js";
import { number } from "./catalogue.js";
import { byId, element } from "./dom.js";

const EVERY = 3000;
const KEPT = 40; // looks, two minutes
const ASKED = ["/recommend", "/similar", "/audience", "/events"]; // what people and shops ask; not the page's own looks
const looks = []; // {time, samples}

/** Samples of Prometheus' text format: [name, labels, value]. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    samples.push([match[1], labels, Number(match[3])]);
  }
  return samples;
}

/** The sum of the samples of a name whose labels are these. */
export function total(samples, name, wanted = {}) {
  return samples
    .filter(([each, labels]) => each === name && Object.entries(wanted).every(([key, value]) => [value].flat().includes(labels[key])))
    .reduce((sum, [, , value]) => sum + value, 0);
}

/** The time below which this share of the answers was, in seconds, by the histogram's growth between two looks. */
export function quantile(share, now, before, route) {
  const name = "twotower_request_seconds_bucket";
  const bounds = [...new Set(now.filter(([each, { route: r }]) => each === name && r === route).map(([, { le }]) => le))];
  const numeric = (le) => (le === "+Inf" ? Infinity : Number(le));
  bounds.sort((a, b) => numeric(a) - numeric(b));
  const counts = bounds.map((le) => total(now, name, { route, le }) - total(before, name, { route, le }));
  const all = counts.at(-1) ?? 0;
  if (!all) return null;
  const place = counts.findIndex((count) => count >= share * all);
  const [low, high] = [place ? numeric(bounds[place - 1]) : 0, numeric(bounds[place])];
  if (high === Infinity) return low;
  const under = place ? counts[place - 1] : 0;
  return low + ((high - low) * (share * all - under)) / (counts[place] - under);
}

async function look() {
  if (document.hidden) return;
  try {
    looks.push({ time: performance.now(), samples: parse(await askText("/metrics")) });
  } catch {
    return; // the page says elsewhere that the server can't be reached
  }
  if (looks.length > KEPT) looks.shift();
  show();
}

function rates() {
  const asked = looks.map(({ time, samples }) => [time, total(samples, "twotower_requests_total", { route: ASKED })]);
  return asked.slice(1).map(([time, count], n) => Math.max(0, (1000 * (count - asked[n][1])) / (time - asked[n][0])));
}

function show() {
  const { samples } = looks.at(-1);
  const before = looks.length > 1 ? looks[0].samples : [];
  const rate = rates();
  const time = (share) => {
    const seconds = quantile(share, samples, before, "/recommend") ?? quantile(share, samples, [], "/recommend");
    return seconds === null ? "–" : `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  };
  const answers = (kind) => number(total(samples, "twotower_answers_total", { kind }));
  const up = samples.filter(([name]) => name === "twotower_store_up");
  const figures = {
    "Requests a second": rate.length ? rate.at(-1).toFixed(1) : "–",
    "Half are answered within": time(0.5),
    "99 of 100 within": time(0.99),
    "Answers by the model": answers("model"),
    "Most frequent items instead": answers("fallback"),
    "Changes of the model": number(total(samples, "twotower_swaps_total")),
    "Visitors' memory": up.length && !up[0][2] ? "not reachable" : "reachable",
  };
  const rows = Object.entries(figures).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  byId("live").replaceChildren(...rows);
  const most = Math.max(1, ...rate);
  const line = rate.map((each, n) => `${(100 * (n + KEPT - 1 - rate.length)) / (KEPT - 2)},${23 - (22 * each) / most}`);
  byId("spark").firstElementChild.setAttribute("points", line.join(" "));
}

export function setUpLive() {
  look();
  setInterval(look, EVERY);
}
