// What the person has chosen, all of it in the address, so that a link shows the same.

export const state = {
  history: [], // {item, type, time}, oldest first
  user: "",
  type: "", // of the next click
  objective: "",
  k: 10,
  excludeSeen: false,
  explain: true,
  exploration: 0, // percent
  seed: 0,
  filters: {}, // column -> [values] or {min, max}
  usesTime: false, // whether the model looks at the time of an event
};
const PLAIN = { user: "", objective: "", k: 10, exploration: 0, seed: 0 };
const listeners = [];

export function whenChanged(listener) {
  listeners.push(listener);
}

/** Change the state, write it into the address, and tell the parts of the page. */
export function change(changes) {
  Object.assign(state, changes);
  const address = toHash();
  history.replaceState(null, "", address ? `#${address}` : location.pathname);
  for (const listener of listeners) listener(changes);
}

export function click(item) {
  change({ history: [...state.history, { item, type: state.type, time: Date.now() }] });
}

/** Events as the server takes them; times only where the model uses them. */
function events() {
  const times = state.history.map((each) => each.time).sort((a, b) => a - b); // a changed order keeps the times rising
  return state.history.map(({ item, type }, place) => ({
    item_id: item,
    ...(type ? { event_type: type } : {}),
    ...(state.usesTime ? { timestamp: times[place] } : {}),
  }));
}

/** The part of a request that says whose items are wanted. */
export function whom() {
  const history = events();
  return {
    ...(state.user ? { user_id: state.user } : {}),
    ...(history.length ? { history } : {}),
    ...(state.objective ? { objective: state.objective } : {}),
  };
}

/** The whole request to /recommend. */
export function request() {
  return {
    ...whom(),
    k: state.k,
    exclude_seen: state.excludeSeen,
    explain: state.explain,
    ...(state.exploration ? { exploration: state.exploration / 100, seed: state.seed } : {}),
    ...(Object.keys(state.filters).length ? { filters: state.filters } : {}),
  };
}

function toHash() {
  const words = new URLSearchParams();
  const big = (_, value) => (typeof value === "bigint" ? { big: `${value}` } : value);
  for (const { item, type, time } of state.history) words.append("click", JSON.stringify(state.usesTime ? [item, type, time] : [item, type], big));
  for (const [name, plain] of Object.entries(PLAIN)) if (state[name] !== plain) words.set(name, state[name]);
  if (state.excludeSeen) words.set("unseen", "1");
  if (!state.explain) words.set("why", "0");
  if (Object.keys(state.filters).length) words.set("only", JSON.stringify(state.filters));
  return words.toString();
}

/** Take the state from the address; what can't be read there is left out. */
export function fromAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const whole = (name, least, most) => {
    const number = Number(words.get(name) ?? PLAIN[name]);
    return Number.isInteger(number) && number >= least && number <= most ? number : PLAIN[name];
  };
  change({
    history: words.getAll("click").map(readJson).filter(Array.isArray).map(toClick).filter(({ item }) => item !== null),
    user: words.get("user") ?? "",
    objective: words.get("objective") ?? "",
    k: whole("k", 1, 100),
    excludeSeen: words.get("unseen") === "1",
    explain: words.get("why") !== "0",
    exploration: whole("exploration", 0, 100),
    seed: whole("seed", 0, 2 ** 32 - 1),
    filters: toFilters(readJson(words.get("only"))),
  });
}

function toClick([item, type, time]) {
  const big = typeof item === "object" && /^-?\d{1,19}$/.test(item?.big) ? BigInt(item.big) : null;
  const isItem = typeof item === "string" || Number.isSafeInteger(item);
  return { item: isItem ? item : big, type: typeof type === "string" ? type : "", time: Number(time) || Date.now() };
}

function toFilters(value) {
  const entries = value && typeof value === "object" ? Object.entries(value) : [];
  return Object.fromEntries(entries.filter(([, each]) => each && typeof each === "object"));
}

function readJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
