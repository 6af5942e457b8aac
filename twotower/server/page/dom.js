// Elements made by script. Texts of data become text nodes alone, so that no name of an item can be markup.

export const byId = (id) => document.getElementById(id);

/** Make an element: properties, `on` for its click, `data` for data-* attributes, `aria-*`; then its children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") made.addEventListener("click", value);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name.startsWith("aria-") || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Say something to people who hear the page. */
export function say(text) {
  byId("status").textContent = text;
}

/** Show what went wrong in one place of the page; an empty text: it is well again. */
export function showProblem(text) {
  const place = byId("problem");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

/** Call a function once things have been quiet for some time. */
export function whenQuiet(call, milliseconds) {
  let waiting;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(call, milliseconds);
  };
}

/** Keep the focus on the same control when a list is made anew. */
export function replaceKeepingFocus(list, rows) {
  const { key } = document.activeElement?.closest("[data-key]")?.dataset ?? {};
  const had = key !== undefined && list.contains(document.activeElement);
  list.replaceChildren(...rows);
  if (had) [...list.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus();
}
