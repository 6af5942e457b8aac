// The recommendations: one list a model, with scores, reasons, and where the other model has an item.

import { ask } from "./api.js";
import { itemRow, learn, nameOf } from "./catalogue.js";
import { byId, element, replaceKeepingFocus, say, showProblem } from "./dom.js";
import { request, state } from "./state.js";

const REASONS = 3; // shown of each item, if they are
const LEAST = 0.01; // of all shares, or more
export const PEOPLE = { champion: "Present model", challenger: "Challenger" };
let running = new AbortController();

/** Ask all models, show their lists, and return the first one's answer; null where a later request has taken over. */
export async function refresh(models) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const body = request();
  byId("lists").setAttribute("aria-busy", "true");
  try {
    const buckets = models.map(({ bucket }) => bucket);
    const answers = await Promise.all(
      buckets.map((bucket) => ask("POST", "/recommend", buckets.length > 1 ? { ...body, bucket } : body, signal)),
    );
    await learn([...answers.flatMap(({ items }) => items.map((each) => each.item_id)), ...state.history.map(({ item }) => item)]);
    if (signal.aborted) return null;
    show(answers);
    showProblem("");
    return answers;
  } catch (error) {
    if (error.name === "AbortError") return null;
    showProblem(error.message);
    byId("lists").setAttribute("aria-busy", "false");
    return null;
  }
}

function show(answers) {
  const ranks = answers.map(({ items }) => new Map(items.map((each, place) => [each.item_id, place])));
  const lists = answers.map((answer, n) => list(answer, answers.length > 1 ? ranks[1 - n] : null, answers.length > 1));
  replaceKeepingFocus(byId("lists"), lists);
  byId("lists").setAttribute("aria-busy", "false");
  byId("about").textContent = about(answers[0]);
  const [first] = answers[0].items;
  say(first ? `${answers[0].items.length} recommendations, the first is ${nameOf(first.item_id)}` : "No recommendations");
}

function about(answer) {
  const parts = [];
  if (!answer.items.length) parts.push("No item fits what you want: choose fewer limits.");
  else if (answer.is_fallback)
    parts.push(
      state.history.length || state.user
        ? "The model knows none of these clicks, so these are the shop's most frequent items."
        : "Nothing is clicked yet, so these are the shop's most frequent items.",
    );
  else parts.push("Best first. Click one to go on from there; ≈ shows items like it.");
  if (answer.degraded) parts.push(`Not at its best: ${answer.degraded.join("; ")}.`);
  return parts.join(" ");
}

function list(answer, others, hasTwo) {
  const most = Math.max(...answer.items.map((each) => Math.abs(each.score ?? 0)), 1e-9);
  const rows = answer.items.map((each, place) => answerRow(answer, each, place, others, most));
  return element(
    "div",
    { className: "list", data: { bucket: answer.bucket } },
    hasTwo ? element("h3", {}, PEOPLE[answer.bucket] ?? answer.bucket) : null,
    element("ol", { className: "plain", "aria-label": PEOPLE[answer.bucket] ?? answer.bucket }, ...rows),
  );
}

function answerRow(answer, each, place, others, most) {
  const lead = element("span", { className: "place" }, `${place + 1}`);
  const reasons = each.reasons?.length ? why(each.reasons) : null;
  const row = itemRow(each.item_id, { lead, more: reasons, key: answer.bucket });
  const score = element("span", { className: "score" });
  if (each.score !== null) {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${Math.round((100 * Math.max(each.score, 0)) / most)}%`;
    score.append(element("span", { className: "track", "aria-hidden": "true" }, bar), element("span", { title: "score" }, each.score.toFixed(3)));
  }
  const marks = [others ? mark(answer.bucket, each.item_id, place, others) : null, chance(each.probability)];
  row.querySelector(".like").before(element("span", { className: "side" }, score, ...marks.filter(Boolean)));
  row.dataset.answer = `${each.item_id}`;
  return row;
}

/** Where the other model has the item: marked on the challenger; on the champion only what it alone has. */
function mark(bucket, id, place, others) {
  const other = others.get(id);
  if (other === undefined) return element("span", { className: "mark alone" }, "only here");
  if (bucket === "champion") return null;
  const shift = other - place;
  const text = shift > 0 ? `▲ ${shift}` : shift < 0 ? `▼ ${-shift}` : "=";
  const label = !shift ? "the same place as in the present model" : `${Math.abs(shift)} places ${shift > 0 ? "higher" : "lower"} than in the present model`;
  return element("span", { className: `mark ${shift > 0 ? "up" : shift < 0 ? "down" : ""}`, title: label }, text, element("span", { className: "unseen" }, ` ${label}`));
}

function chance(probability) {
  return probability === undefined || probability === null || probability >= 0.9995
    ? null
    : element("span", { className: "mark", title: "how likely this item was to be drawn" }, `drawn, ${percent(probability)}`);
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.01 ? 1 : 0)}\u00a0%`;
}

/** Bars of the events that speak for an item, and of those that speak against it. */
function why(reasons) {
  const total = reasons.reduce((sum, { share }) => sum + Math.abs(share), 0) || 1;
  const shown = reasons.slice(0, REASONS).filter(({ share }, place) => !place || Math.abs(share) >= LEAST * total);
  const rows = shown.map(({ item_id, event_type, share }) => {
    const bar = element("span", { className: share < 0 ? "bar against" : "bar" });
    bar.style.width = `${Math.max(2, Math.round((100 * Math.abs(share)) / total))}%`;
    const what = event_type ? `${nameOf(item_id)} (${event_type})` : nameOf(item_id);
    const amount = `${share < 0 ? "−" : ""}${percent(Math.abs(share) / total)}`;
    return element(
      "li",
      {},
      element("span", { className: "track", "aria-hidden": "true" }, bar),
      element("span", { className: "amount" }, amount),
      element("span", { className: "what" }, what, share < 0 ? element("span", { className: "soft" }, " speaks against it") : null),
    );
  });
  return element("ul", { className: "why", "aria-label": "Because of" }, ...rows);
}

/** The dialog of items like one. */
export async function showSimilar(id) {
  const dialog = byId("similar");
  byId("similar-title").textContent = `Items like ${nameOf(id)}`;
  byId("similar-items").replaceChildren(element("li", { className: "empty" }, "Looking …"));
  if (!dialog.open) dialog.showModal();
  try {
    const { items } = await ask("POST", "/similar", { item_id: id, k: 12 });
    await learn(items.map((each) => each.item_id));
    const rows = items.map((each, place) => itemRow(each.item_id, { lead: element("span", { className: "place" }, `${place + 1}`), key: "like" }));
    byId("similar-items").replaceChildren(...(rows.length ? rows : [element("li", { className: "empty" }, "There are none.")]));
  } catch (error) {
    byId("similar-items").replaceChildren(element("li", { className: "problem" }, error.message));
  }
}
