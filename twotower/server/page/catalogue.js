// Items by name: what is known of each, the search, and a row that shows one.

import { ask, Problem } from "./api.js";
import { byId, element, say, showProblem, whenQuiet } from "./dom.js";
import { click, state } from "./state.js";

const NAMES = ["item_name", "name", "title", "product_name"];
const HIDDEN = new Set(["item_id", "train_count", "age_days", ...NAMES]);
const SHOWN = 40;
const known = new Map(); // id -> {item_id, ...features}
let openSimilar = () => {};

export function whenSimilarIsAsked(call) {
  openSimilar = call;
}

export function remember(items) {
  for (const item of items) known.set(item.item_id, { ...known.get(item.item_id), ...item });
}

export function nameOf(id) {
  const item = known.get(id) ?? {};
  const column = NAMES.find((each) => item[each]);
  return String(column ? item[column] : id);
}

/** Category, brand, price and so on, in a line. */
export function detailsOf(id) {
  const values = Object.entries(known.get(id) ?? {}).filter(([name, value]) => !HIDDEN.has(name) && value !== null);
  return values.map(([name, value]) => (typeof value === "number" ? `${words(name)} ${number(value)}` : `${value}`));
}

/** Fetch what is not known yet of these items. */
export async function learn(ids) {
  const missing = [...new Set(ids)].filter((id) => known.get(id)?.train_count === undefined);
  await Promise.all(
    missing.map(async (id) => {
      try {
        remember([await ask("GET", `/items/${encodeURIComponent(id)}`)]);
      } catch (error) {
        if (!(error instanceof Problem)) throw error; // an item that is gone keeps its id for a name
      }
    }),
  );
}

/** A feature's name for people. */
export function words(name) {
  return { age_days: "days in the shop", train_count: "times seen in training" }[name] ?? name.replaceAll("_", " ");
}

export function number(value) {
  return value.toLocaleString(undefined, { maximumFractionDigits: 2 });
}

/** A row of an item: a button that clicks it, and one that shows items like it. */
export function itemRow(id, { lead = null, more = null, key } = {}) {
  const name = nameOf(id);
  const label = state.type ? `Click ${name} as ${state.type}` : `Click ${name}`;
  const details = detailsOf(id).join(" · ");
  return element(
    "li",
    { className: "item" },
    element(
      "div",
      { className: "line" },
      lead,
      element(
        "button",
        { type: "button", className: "pick", on: () => click(id), "aria-label": label, data: { key: `pick ${key} ${id}`, item: `${id}` } },
        element("span", { className: "name" }, name),
        element("span", { className: "soft" }, details ? `${details} · ` : "", element("span", { className: "whole" }, `${id}`)),
      ),
      element(
        "button",
        { type: "button", className: "like", on: () => openSimilar(id), "aria-label": `Items like ${name}`, data: { key: `like ${key} ${id}` } },
        "≈",
      ),
    ),
    more,
  );
}

/** The search field and its list. */
export function setUpSearch() {
  const field = byId("search");
  let last;
  const search = async () => {
    const text = (last = field.value);
    try {
      const { items, total } = await ask("GET", `/items?search=${encodeURIComponent(text)}&limit=${SHOWN}`);
      if (text !== last) return; // a later search is on its way
      remember(items);
      const shown = items.length < total ? `${number(items.length)} of ${number(total)} items` : `${number(total)} items`;
      byId("found").textContent = total ? `${shown}, the most frequent first` : "No item has all of these words.";
      say(byId("found").textContent);
      byId("results").replaceChildren(...items.map((item) => itemRow(item.item_id, { key: "found" })));
      byId("results").scrollTop = 0;
      showProblem("");
    } catch (error) {
      showProblem(error.message);
    }
  };
  field.addEventListener("input", whenQuiet(search, 120));
  return search;
}
