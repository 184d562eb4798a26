// The page: asks, and writes what it got as text, never as HTML.
import { bytes, combine, figures, samples, total, work } from "./figures.js";

const every = 2000; // milliseconds between looks
const kept = 90; // points of a line
const $ = (id) => document.getElementById(id);
const main = document.querySelector("main");
let key = sessionStorage.getItem("key") ?? "";
const processes = new Map(); // behind one address several dispatchers may answer: the latest look at each
let team; // the workers at the latest look
let lines = {};

async function ask(path) {
  const r = await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {}, signal: AbortSignal.timeout(10000) });
  if (!r.ok) throw Object.assign(new Error(`${path}: ${r.status}`), { status: r.status });
  return r;
}

function table(id, rows) {
  $(id).replaceChildren(...rows.map((cells) => {
    const tr = document.createElement("tr");
    tr.append(...cells.map((c) => Object.assign(document.createElement("td"), { textContent: c })));
    return tr;
  }));
}

function line(points) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${kept - 1} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  const path = document.createElementNS(ns, "polyline");
  const top = Math.max(1e-9, ...points.filter(Number.isFinite));
  const from = kept - points.length;
  path.setAttribute("points", points.map((p, i) => `${from + i},${99 - 98 * (Number.isFinite(p) ? p / top : 0)}`).join(" "));
  path.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(path);
  return svg;
}

function draw(values) {
  $("figures").replaceChildren(...Object.entries(values).map(([name, v]) => {
    lines[name] = [...(lines[name] ?? []), v].slice(-kept);
    const box = document.createElement("div");
    const number = Object.assign(document.createElement("strong"), { textContent: Number.isFinite(v) ? v.toFixed(v < 10 ? 1 : 0) : "–" });
    box.append(name, number, line(lines[name]));
    return box;
  }));
}

async function look() {
  const [workers, queues, text] = await Promise.all([
    ask("/v1/workers").then((r) => r.json()), ask("/v1/queues").then((r) => r.json()), ask("/metrics").then((r) => r.text())]);
  table("workers", workers.data.map((w) => [
    w.worker, w.model, w.asleep ? "asleep" : w.state, w.device, (w.jobs ?? []).length, w.slots, bytes(w.kv.used), bytes(w.kv.reserved), bytes(w.stats.resident_bytes)]));
  table("queues", queues.data.filter((q) => q.pending + q.running + q.held > 0 || (q.state ?? "open") !== "open").map((q) => [q.model, q.class, q.size, q.state ?? "open", q.pending, q.running, q.held]));
  const now = { at: performance.now(), list: samples(text) };
  const id = total(now.list, "process_start_time_seconds");
  const before = processes.get(id);
  if (before) now.figures = figures(before.list, now.list, (now.at - before.at) / 1000);
  processes.set(id, now);
  for (const [other, p] of processes) if (now.at - p.at > 10 * every) processes.delete(other);
  const known = [...processes.values()].filter((p) => p.figures);
  const done = team ? work(team.list, workers.data, (now.at - team.at) / 1000) : {};
  team = { at: now.at, list: workers.data };
  if (known.length) draw({ ...combine(known.map((p) => p.figures)), ...done });
  $("state").textContent = `${workers.data.length} workers · ${new Date().toLocaleTimeString()}`;
}

async function run() {
  try {
    await look();
    main.hidden = false;
    $("login").hidden = true;
    $("leave").hidden = !key;
  } catch (e) {
    $("state").textContent = e.status === 401 || e.status === 403 ? "An operator's key is needed." : `No answer: ${e.message}`;
    if (e.status === 401 || e.status === 403) {
      main.hidden = true;
      $("login").hidden = false;
      return; // until there is another key
    }
  }
  setTimeout(run, every);
}

$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  sessionStorage.setItem("key", key);
  run();
});
$("leave").addEventListener("click", () => {
  sessionStorage.removeItem("key");
  location.reload();
});
run();
