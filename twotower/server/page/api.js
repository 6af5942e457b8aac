// Requests to the server. Whole numbers beyond 2^53, as some shops have them for ids, stay exact where the browser can.

const TOKEN = "twotower-token";
let onMissingToken = () => {};

export class Problem extends Error {}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** What happens when the server wants a token. */
export function whenTokenIsMissing(call) {
  onMissingToken = call;
}

/** The JSON of an answer; raises a Problem in the server's own words. */
export async function ask(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  return parse(await response.text());
}

export async function askText(path) {
  return (await send("GET", path)).text();
}

async function send(method, path, body, signal) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : write(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server can't be reached. Is it still running?");
  }
  if (response.ok) return response;
  const message = await wordsOf(response);
  if (response.status === 401) onMissingToken(token !== null);
  throw new Problem(message);
}

async function wordsOf(response) {
  try {
    const { message, where } = JSON.parse(await response.text()).error;
    return where && where !== "body" ? `${message} (${where})` : message;
  } catch {
    return `The server answers ${response.status} ${response.statusText}`;
  }
}

function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
      ? BigInt(context.source)
      : value,
  );
}

export function write(value) {
  return JSON.stringify(value, (_, each) => (typeof each === "bigint" ? (JSON.rawJSON?.(`${each}`) ?? `${each}`) : each));
}
