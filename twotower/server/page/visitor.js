// The visitor: clicks that can be ordered and removed, and what the server keeps of a visitor.

import { ask } from "./api.js";
import { learn, nameOf } from "./catalogue.js";
import { byId, element, replaceKeepingFocus, say, showProblem } from "./dom.js";
import { change, state } from "./state.js";

const SHOWN = 5; // of the stored events
const EMPTY = "Nothing yet. Click items above, and watch the recommendations change.";
let types = [];
let stored = [];
let isRead = true; // what the server keeps of the visitor

/** The event types that the model knows; none: clicks have no type. */
export function setTypes(values) {
  types = values;
  const choice = byId("type-choice");
  choice.hidden = !types.length;
  choice.replaceChildren(choice.querySelector("legend"), ...types.map(radio));
  if (!types.includes(state.type)) change({ type: types.includes("view") ? "view" : (types[0] ?? "") });
}

function radio(type) {
  const input = element("input", { type: "radio", name: "type", value: type, checked: type === state.type });
  input.addEventListener("change", () => change({ type }));
  return element("label", {}, input, element("span", {}, type));
}

export function showHistory() {
  const clicks = state.history;
  replaceKeepingFocus(byId("history"), clicks.map(row));
  byId("stored").hidden = !stored.length;
  byId("stored").replaceChildren(...storedRows());
  const kept = isRead ? `Nothing is kept of ${state.user} yet.` : `What is kept of ${state.user} is used, but can't be shown.`;
  byId("history-empty").textContent = state.user ? kept : EMPTY;
  byId("history-empty").hidden = clicks.length > 0 || stored.length > 0;
  byId("clear").disabled = !clicks.length;
  byId("send").disabled = !clicks.length || !byId("user").value.trim();
  byId("forget").disabled = !state.user || !isRead;
  for (const input of byId("type-choice").querySelectorAll("input")) input.checked = input.value === state.type;
}

function row({ item, type }, place) {
  const name = nameOf(item);
  const at = (shift) => () => move(place, shift);
  const button = (text, label, on, disabled) =>
    element("button", { type: "button", on, disabled, "aria-label": `${label} ${name}`, data: { key: `${label} ${place}` } }, text);
  return element(
    "li",
    { className: "click" },
    element("span", { className: "place" }, `${place + 1}`),
    element("span", { className: "name" }, name),
    element(
      "span",
      { className: "tools" },
      types.length ? typeSelect(place, type, name) : null,
      button("↑", "Earlier:", at(-1), place === 0),
      button("↓", "Later:", at(1), place === state.history.length - 1),
      button("×", "Remove", () => remove(place), false),
    ),
  );
}

function typeSelect(place, type, name) {
  const select = element("select", { "aria-label": `What was done with ${name}`, data: { key: `type ${place}` } });
  select.append(...[...new Set([...types, type])].map((each) => element("option", { value: each }, each || "unknown")));
  select.value = type;
  select.addEventListener("change", () => {
    change({ history: state.history.map((each, n) => (n === place ? { ...each, type: select.value } : each)) });
  });
  return select;
}

function move(place, shift) {
  const clicks = [...state.history];
  const [moved] = clicks.splice(place, 1);
  clicks.splice(place + shift, 0, moved);
  change({ history: clicks });
  say(`${nameOf(moved.item)} is now number ${place + shift + 1}`);
  const buttons = [...byId("history").children[place + shift].querySelectorAll("button")]; // the focus goes with it
  buttons.slice(shift > 0 ? 1 : 0).find((each) => !each.disabled)?.focus();
}

function remove(place) {
  const name = nameOf(state.history[place].item);
  change({ history: state.history.filter((_, n) => n !== place) });
  say(`${name} is removed`);
  const buttons = byId("history").querySelectorAll("[data-key^='Remove']");
  (buttons[Math.min(place, buttons.length - 1)] ?? byId("search")).focus();
}

function storedRows() {
  const hidden = stored.length - SHOWN;
  const text = ({ item_id, event_type }) => (event_type ? `${nameOf(item_id)} (${event_type})` : nameOf(item_id));
  const rows = stored.slice(-SHOWN).map((event) => element("li", { className: "kept" }, text(event)));
  return hidden > 0 ? [element("li", { className: "kept soft" }, `${hidden} earlier`), ...rows] : rows;
}

/** Read what the server keeps of the visitor in the state. */
export async function loadUser() {
  byId("user").value = state.user;
  stored = [];
  isRead = !state.user;
  try {
    if (state.user) {
      stored = (await ask("GET", `/users/${encodeURIComponent(state.user)}`)).events;
      isRead = true;
      await learn(stored.slice(-SHOWN).map((event) => event.item_id));
      say(`${stored.length} clicks of ${state.user} are used`);
    }
    showProblem("");
  } catch (error) {
    showProblem(error.message);
  }
  showHistory();
}

async function keepClicks() {
  const user = byId("user").value.trim();
  const begin = Date.now() - state.history.length; // a millisecond apart, so that their order stays
  const events = state.history.map(({ item, type }, place) => ({
    user_id: user,
    item_id: item,
    ...(type ? { event_type: type } : {}),
    timestamp: begin + place,
  }));
  try {
    const { stored: number, ignored } = await ask("POST", "/events", { events });
    const left = Object.entries(ignored).map(([reason, count]) => `${count} left out: ${reason}`);
    change({ history: [], user });
    await loadUser();
    say([`${number} clicks are kept`, ...left].join("; "));
    if (left.length) showProblem(left.join("; "));
  } catch (error) {
    showProblem(error.message);
  }
}

async function forget() {
  try {
    await ask("DELETE", `/users/${encodeURIComponent(state.user)}`);
    const { user } = state;
    change({ user: "" });
    await loadUser();
    say(`${user} is forgotten`);
  } catch (error) {
    showProblem(error.message);
  }
}

export function setUpVisitor() {
  byId("clear").addEventListener("click", () => {
    change({ history: [] });
    say("All clicks are removed");
    byId("search").focus();
  });
  byId("user").addEventListener("input", showHistory);
  byId("user-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    change({ user: byId("user").value.trim() });
    await loadUser();
  });
  byId("send").addEventListener("click", keepClicks);
  byId("forget").addEventListener("click", forget);
}
