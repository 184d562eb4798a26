// node check.mjs FIGURES BEFORE AFTER SECONDS: what figures.js makes of two looks at /metrics and at /v1/workers (FILE.workers), as JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [code, before, after, seconds] = process.argv.slice(2);
const { bytes, combine, figures, quantile, samples, total, work } = await import(pathToFileURL(code));
const odd = samples('a_total{l="x\\"y\\\\z",m="1"} 2\n# HELP a_total text\nb 1e3 1700000000\n');
const team = (file) => JSON.parse(readFileSync(file + ".workers", "utf8")).data;
console.log(JSON.stringify({
  figures: {
    ...figures(samples(readFileSync(before, "utf8")), samples(readFileSync(after, "utf8")), Number(seconds)),
    ...work(team(before), [...team(after), { worker: "new", stats: { jobs_failed: 9, output_tokens: 900 } }], Number(seconds)),
  },
  label: odd[0].labels.l, total: total(odd, "a_total", { m: "1" }), plain: total(odd, "b"),
  half: quantile(0.5, [[1, 0], [2, 0], [Infinity, 0]], [[1, 0], [2, 10], [Infinity, 10]]),
  both: combine([{ "a / s": 1, p: NaN }, { "a / s": 2, p: 5 }, { "a / s": 3, p: 4 }]),
  beyond: quantile(0.9, [], [[1, 1], [Infinity, 10]]), nothing: Number.isNaN(quantile(0.5, [], [])), size: bytes(1536),
}));
