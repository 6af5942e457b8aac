// Starts the page: asks what the server has, and lets each part follow the state.

import { ask, setToken, whenTokenIsMissing } from "./api.js";
import { PEOPLE, refresh, showSimilar } from "./answers.js";
import { learn, number, remember, setUpSearch, whenSimilarIsAsked } from "./catalogue.js";
import { byId, say, showProblem, whenQuiet } from "./dom.js";
import { setUpLive } from "./live.js";
import { draw, loadMap, setUpMap, showOnMap } from "./map.js";
import { fromAddress, state, whenChanged } from "./state.js";
import { loadUser, setTypes, setUpVisitor, showHistory } from "./visitor.js";
import { setUpFor, setUpWishes, show as showWishes } from "./wishes.js";

let models = [];
const search = setUpSearch();

/** Ask what the server has, and make the controls for it. */
async function start() {
  try {
    ({ models } = await ask("GET", "/model"));
    const [model] = models;
    const keys = model.requests.events ?? {};
    state.usesTime = Boolean(keys.timestamp?.inputs?.length) || Boolean(model.query_time);
    byId("facts").textContent = facts();
    byId("parts").classList.toggle("two", models.length > 1);
    setTypes(keys.event_type?.values ?? []);
    setUpFor(model);
    const popular = await ask("GET", "/items?search=&limit=100"); // their names and features, in one request
    remember(popular.items);
    await loadMap();
    await learn(state.history.map(({ item }) => item));
    await Promise.all([search(), loadUser()]);
    byId("token-form").hidden = true;
    await answer();
  } catch (error) {
    showProblem(error.message);
  }
  if (models.length) byId("parts").classList.remove("waiting");
  else byId("facts").textContent = "";
}

function facts() {
  const [model] = models;
  const versions = models.map(({ bucket, model: name, version, share }) => {
    const part = models.length > 1 ? `, ${Math.round(100 * share)} % of the visitors` : "";
    return `${models.length > 1 ? PEOPLE[bucket].toLowerCase() : "model"} ${name.slice(0, 8)}, version ${version}${part}`;
  });
  return [`${number(model.num_items)} items`, ...versions].join(" · ");
}

async function answer() {
  if (!models.length) return;
  const answers = await refresh(models);
  if (!answers) return;
  showHistory();
  const isNew = answers.some(({ bucket, model }) => models.some((each) => each.bucket === bucket && each.model !== model));
  if (isNew) {
    say("The server has a new model");
    await start(); // its items and what it can be asked may be others
    return;
  }
  await showOnMap(answers[0]);
}

const answerSoon = whenQuiet(answer, 120);
whenChanged((changes) => {
  if ("type" in changes && Object.keys(changes).length === 1) {
    showHistory();
    search(); // its buttons say what a click is
    return;
  }
  showHistory();
  showWishes();
  draw();
  answerSoon();
});
whenTokenIsMissing((had) => {
  byId("token-form").hidden = false;
  byId("token-form").querySelector("label").textContent = had
    ? "The server does not know this token; try another"
    : "This server asks for a token";
  byId("token").focus();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  showProblem("");
  start();
});
for (const id of ["skip", "jump"]) byId(id).addEventListener("click", () => byId("answers-title").focus());
byId("share").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied");
    byId("share").textContent = "Copied";
    setTimeout(() => (byId("share").textContent = "Copy link"), 2000);
  } catch {
    showProblem("The browser does not let pages copy here: copy the address from its address bar.");
  }
});
byId("close-similar").addEventListener("click", () => byId("similar").close());
byId("similar-items").addEventListener("click", (event) => {
  if (event.target.closest(".pick")) byId("similar").close();
});
whenSimilarIsAsked(showSimilar);
window.addEventListener("hashchange", () => {
  fromAddress();
  loadUser();
});
setUpVisitor();
setUpWishes();
setUpMap();
fromAddress();
await start();
setUpLive();
