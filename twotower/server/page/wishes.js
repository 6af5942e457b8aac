// The controls of a request: what for, how many, and which items. They are made from what the model says it can.

import { number, words } from "./catalogue.js";
import { byId, element, whenQuiet } from "./dom.js";
import { change, state } from "./state.js";

const OWN = ["item_name", "not", "any"]; // a name is no choice; `not` and `any` mean something else in a filter

/** Make the controls for a model's facts, as `GET /model` gives them. */
export function setUpFor(model) {
  const objectives = model.objectives ?? [];
  byId("objective-row").hidden = !objectives.length;
  byId("objective").replaceChildren(
    element("option", { value: "" }, "click of any kind"),
    ...objectives.map((each) => element("option", { value: each }, each)),
  );
  const columns = Object.entries(model.requests.filters ?? {}).filter(([name, column]) => isChoice(name, column, model));
  byId("filters").hidden = !columns.length;
  byId("filter-fields").replaceChildren(...columns.map(([name, column]) => (column.type === "number" ? range(name, column) : choice(name, column))));
  show();
}

function isChoice(name, column, model) {
  if (OWN.includes(name)) return false;
  return column.type === "number" ? column.from < column.to : column["number of values"] <= model.num_items / 2;
}

/** Checkboxes of a column's values; a field for others, where not all are shown. */
function choice(name, column) {
  const box = element("fieldset", { data: { column: name } }, element("legend", {}, words(name)));
  const list = element("div", { className: "values scroll" });
  const values = [...new Set([...column.values, ...chosen(name)])];
  list.append(...values.map((value) => check(name, value)));
  box.append(list);
  const others = column["number of values"] - column.values.length;
  if (others > 0) box.append(other(name, others, list));
  return box;
}

const chosen = (name) => (Array.isArray(state.filters[name]) ? state.filters[name] : []);

function check(name, value) {
  const input = element("input", { type: "checkbox", value, checked: chosen(name).includes(value) });
  input.addEventListener("change", () => {
    const without = chosen(name).filter((each) => each !== value);
    setFilter(name, input.checked ? [...without, value] : without);
  });
  return element("label", { className: "check" }, input, ` ${value}`);
}

function other(name, number, list) {
  const input = element("input", { placeholder: `one of ${number} others`, "aria-label": `Another ${words(name)}` });
  input.addEventListener("change", () => {
    const value = input.value.trim();
    if (value && !chosen(name).includes(value)) {
      setFilter(name, [...chosen(name), value]);
      list.prepend(check(name, value));
    }
    input.value = "";
  });
  return input;
}

function range(name, { from, to }) {
  const field = (bound, hint) => {
    const input = element("input", {
      type: "number",
      step: "any",
      inputMode: "decimal",
      placeholder: number(hint),
      "aria-label": `${words(name)}, ${bound === "min" ? "at least" : "at most"}`,
      data: { bound },
    });
    input.addEventListener(
      "input",
      whenQuiet(() => {
        const { [bound]: _, ...rest } = state.filters[name] ?? {};
        setFilter(name, input.value === "" ? rest : { ...rest, [bound]: Number(input.value) });
      }, 250),
    );
    return input;
  };
  return element(
    "fieldset",
    { data: { column: name } },
    element("legend", {}, words(name)),
    element("div", { className: "row range" }, field("min", from), element("span", {}, "to"), field("max", to)),
  );
}

function setFilter(name, value) {
  const { [name]: _, ...rest } = state.filters;
  change({ filters: Object.keys(value).length ? { ...rest, [name]: value } : rest });
}

/** Show the state in the controls. */
export function show() {
  byId("objective").value = state.objective;
  if (byId("objective").selectedIndex < 0) byId("objective").value = "";
  if (document.activeElement !== byId("k")) byId("k").value = state.k;
  byId("exclude-seen").checked = state.excludeSeen;
  byId("explain").checked = state.explain;
  byId("exploration").value = state.exploration;
  byId("exploration-value").value = `${state.exploration} %`;
  byId("seed").disabled = !state.exploration;
  if (document.activeElement !== byId("seed")) byId("seed").value = state.seed;
  const active = Object.keys(state.filters).length;
  byId("filter-count").textContent = active ? ` (${active} in use)` : "";
  byId("clear-filters").disabled = !active;
  for (const input of byId("filter-fields").querySelectorAll("input")) {
    const name = input.closest("[data-column]").dataset.column;
    if (input.type === "checkbox") input.checked = chosen(name).includes(input.value);
    else if (input.dataset.bound && document.activeElement !== input) input.value = state.filters[name]?.[input.dataset.bound] ?? "";
  }
}

export function setUpWishes() {
  const whole = (id, name) =>
    byId(id).addEventListener("input", () => {
      if (byId(id).checkValidity() && byId(id).value !== "") change({ [name]: Number(byId(id).value) });
    });
  byId("objective").addEventListener("change", () => change({ objective: byId("objective").value }));
  byId("exclude-seen").addEventListener("change", () => change({ excludeSeen: byId("exclude-seen").checked }));
  byId("explain").addEventListener("change", () => change({ explain: byId("explain").checked }));
  byId("exploration").addEventListener("input", () => change({ exploration: Number(byId("exploration").value) }));
  whole("k", "k");
  whole("seed", "seed");
  byId("clear-filters").addEventListener("click", () => change({ filters: {} }));
}
