// The map: each item a dot, the visitor among them. Labels by pointer, by finger and by keyboard.

import { ask } from "./api.js";
import { nameOf, remember } from "./catalogue.js";
import { byId, showProblem } from "./dom.js";
import { click, state, whom } from "./state.js";

const NEAR = 14; // pixels from the pointer to a dot
const MOST_ZOOM = 16;
const MARGIN = 14;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const canvas = byId("map");
let points = []; // [x, y, id]
let visitor = null; // {x, y}
let answers = new Set();
let zoom = 1;
let current = null; // the point whose label is shown
let asked = 0;

/** Fetch the dots of the first model. */
export async function loadMap() {
  const found = await ask("GET", "/map");
  points = found.points;
  remember(points.map(([, , item_id, label]) => ({ item_id, ...(label === `${item_id}` ? {} : { item_name: label }) })));
  const share = found.explained.reduce((sum, each) => sum + each, 0);
  byId("map-share").textContent = share ? `The plane shows ${Math.round(100 * share)} % of the differences.` : "";
  current = null;
  draw();
}

/** Show the items of an answer, and where the visitor is. */
export async function showOnMap(answer) {
  answers = new Set(answer.items.map((each) => each.item_id));
  const mine = ++asked;
  if (!state.history.length && !state.user) visitor = null;
  else {
    try {
      const place = await ask("POST", "/map", whom());
      if (mine !== asked) return;
      visitor = place.x === null ? null : place;
    } catch (error) {
      showProblem(error.message);
    }
  }
  draw();
}

/** From places of the map to pixels: all of it, or what is around the visitor. */
function scale() {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  if (visitor && zoom === 1) {
    xs.push(visitor.x);
    ys.push(visitor.y);
  }
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const { width, height } = canvas.getBoundingClientRect();
  const unit = zoom * Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (high - low || 1));
  const whole = { x: (left + right) / 2, y: (low + high) / 2 };
  const centre = zoom > 1 ? (visitor ?? (current ? { x: current[0], y: current[1] } : whole)) : whole;
  return ([x, y]) => [width / 2 + (x - centre.x) * unit, height / 2 - (y - centre.y) * unit];
}

export function draw() {
  const { width, height } = canvas.getBoundingClientRect();
  if (!width || !points.length) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const place = scale();
  const clicked = new Set(state.history.map(({ item }) => item));
  const dot = (point, radius, fill) => {
    const [x, y] = place(point);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.fill();
  };
  const small = points.length > 1000 ? 1.6 : 2.4;
  const shown = { [colour("--dot")]: [small, []], [colour("--answer")]: [4, []], [colour("--clicked")]: [4.5, []] };
  const [other, answer, history] = Object.values(shown);
  for (const point of points) (clicked.has(point[2]) ? history : answers.has(point[2]) ? answer : other)[1].push(point);
  for (const [fill, [radius, these]] of Object.entries(shown)) for (const point of these) dot(point, radius, fill);
  context.strokeStyle = colour("--text");
  context.lineWidth = 2;
  if (visitor) {
    dot([visitor.x, visitor.y], 6.5, colour("--visitor"));
    context.stroke();
  }
  if (current) {
    const [x, y] = place(current);
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.stroke();
  }
  showLabel(place, width);
}

function showLabel(place, width) {
  const label = byId("map-label");
  label.hidden = !current;
  if (!current) return;
  const [x, y] = place(current);
  const name = nameOf(current[2]);
  if (label.textContent !== name) label.textContent = name;
  label.style.left = `${Math.min(Math.max(x - label.offsetWidth / 2, 0), width - label.offsetWidth)}px`;
  label.style.top = `${y > 44 ? y - 40 : y + 14}px`;
}

function pointNear(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const place = scale();
  let [best, least] = [null, NEAR];
  for (const point of points) {
    const [x, y] = place(point);
    const distance = Math.hypot(x - event.clientX + left, y - event.clientY + top);
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

/** The next dot in a direction: near, and not far beside it. */
function next([dx, dy]) {
  const from = current ?? (visitor ? [visitor.x, visitor.y] : [0, 0]);
  let [best, least] = [current, Infinity];
  for (const point of points) {
    const [x, y] = [point[0] - from[0], point[1] - from[1]];
    const along = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (along > 1e-9 && aside <= along && along + aside < least) [best, least] = [point, along + aside];
  }
  return best;
}

function setZoom(value) {
  zoom = Math.min(Math.max(value, 1), MOST_ZOOM);
  draw();
}

export function setUpMap() {
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    current = pointNear(event);
    draw();
  });
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "mouse") return;
    current = null;
    draw();
  });
  canvas.addEventListener("click", (event) => {
    const point = pointNear(event);
    const again = point && point === current; // a first tap shows the name, the next one clicks
    current = point;
    if (again) click(point[2]);
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key in ARROWS) current = next(ARROWS[event.key]);
    else if (event.key === "Enter" && current) click(current[2]);
    else if (event.key === "+") setZoom(2 * zoom);
    else if (event.key === "-") setZoom(zoom / 2);
    else if (event.key === "Escape") current = null;
    else return;
    event.preventDefault();
    draw();
  });
  byId("zoom-in").addEventListener("click", () => setZoom(2 * zoom));
  byId("zoom-out").addEventListener("click", () => setZoom(zoom / 2));
  byId("whole").addEventListener("click", () => setZoom(1));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
