// What the page computes, without a page: Prometheus' text format in, figures out.

// samples reads the text into a list of {name, labels, value}.
export function samples(text) {
  const out = [];
  for (const line of text.split("\n")) {
    const m = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!m) continue;
    const labels = {};
    for (const [, k, v] of (m[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[k] = v.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    out.push({ name: m[1], labels, value: Number(m[3]) });
  }
  return out;
}

// total adds up the samples of a name whose labels fit.
export function total(list, name, labels = {}) {
  let sum = 0;
  for (const s of list) {
    if (s.name === name && Object.entries(labels).every(([k, v]) => s.labels[k] === v)) sum += s.value;
  }
  return sum;
}

// buckets adds up a histogram over all series: a list of [upper bound, count], the bounds rising.
export function buckets(list, name) {
  const at = new Map();
  for (const s of list) {
    if (s.name !== name + "_bucket") continue;
    const le = s.labels.le === "+Inf" ? Infinity : Number(s.labels.le);
    at.set(le, (at.get(le) ?? 0) + s.value);
  }
  return [...at].sort((a, b) => a[0] - b[0]);
}

// quantile of what came into a histogram between two looks; NaN when nothing did.
export function quantile(q, before, now) {
  const was = new Map(before);
  const counts = now.map(([le, n]) => [le, n - (was.get(le) ?? 0)]);
  const all = counts.length ? counts[counts.length - 1][1] : 0;
  let low = 0, below = 0;
  for (const [le, n] of counts) {
    if (all > 0 && n >= q * all) {
      return le === Infinity ? low : low + (le - low) * (n === below ? 1 : (q * all - below) / (n - below));
    }
    [low, below] = [le, n];
  }
  return NaN;
}

// figures are what happened between two looks, so many seconds apart.
export function figures(before, now, seconds) {
  const rate = (name, labels) => Math.max(0, total(now, name, labels) - total(before, name, labels)) / seconds;
  const p95 = (name) => quantile(0.95, buckets(before, name), buckets(now, name));
  return {
    "jobs admitted / s": rate("pelton_jobs_total", { outcome: "admitted" }),
    "jobs shed / s": rate("pelton_jobs_total", { outcome: "shed" }),
    "first token at the door, p95, ms": 1000 * p95("pelton_gateway_time_to_first_token_seconds"),
    "jobs that wait": total(now, "pelton_queue_jobs", { state: "waiting" }) + total(now, "pelton_queue_jobs", { state: "held" }),
  };
}

// work is what the workers did between two looks at them, so many seconds apart. They say it themselves: a
// dispatcher's own metrics know only of workers in its process. One that is new is counted from the next look on.
export function work(before, now, seconds) {
  const was = new Map(before.map((w) => [w.worker, w.stats]));
  const rate = (count) => now.reduce((sum, w) => sum + Math.max(0, count(w.stats) - count(was.get(w.worker) ?? w.stats)), 0) / seconds;
  return { "jobs failed / s": rate((s) => s.jobs_failed), "output tokens / s": rate((s) => s.output_tokens) };
}

// combine makes one of the figures of several dispatchers: rates add up, of other figures the largest counts.
export function combine(list) {
  const out = {};
  for (const one of list) {
    for (const [name, v] of Object.entries(one)) {
      const had = name in out && Number.isFinite(out[name]);
      if (!had) out[name] = v;
      else if (Number.isFinite(v)) out[name] = name.endsWith("/ s") ? out[name] + v : Math.max(out[name], v);
    }
  }
  return out;
}

// bytes for people.
export function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024) return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)} TiB`;
}
