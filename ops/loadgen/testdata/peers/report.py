"""The figures of peers.py as Markdown. `report.py RUN.json` prints a stored run again."""
import collections, json, statistics, sys

Figure = collections.namedtuple("Figure", "mid low high")


def figures(runs, load, server, key):
    """Median and range over the rounds, None without a run."""
    v = [r[key] for r in runs if r["load"] == load and r["server"] == server]
    return Figure(statistics.median(v), min(v), max(v)) if v else None


def spread(f, form="{:.0f}"):
    return form.format(f.mid) + (f" ({form.format(f.low)}–{form.format(f.high)})" if f.low != f.high else "")


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(map(str, r)) + " |" for r in rows]) + "\n"


def every_run(loads, names, runs):
    rows = []
    for load in loads:
        for s in names:
            f = {k: figures(runs, load["name"], s, k) for k in ("tok_s", "ttft_p50", "ttft_p95", "itl_p50", "itl_p99", "tpot_p50", "foreign", "failed")}
            if f["tok_s"]:
                rows.append([load["name"], s, spread(f["tok_s"]), spread(f["ttft_p50"]), spread(f["ttft_p95"]), spread(f["itl_p50"], "{:.1f}"), spread(f["itl_p99"], "{:.0f}"),
                             f"{f['tpot_p50'].mid:.1f}", f"{f['foreign'].high:.0f} %" + (" **!**" if f["foreign"].high > 20 else "") + (f", {f['failed'].high} failed" if f["failed"].high else "")])
    return table(["load", "server", "output tok/s", "TTFT p50 ms", "TTFT p95 ms", "ITL p50 ms", "ITL p99 ms", "TPOT p50 ms", "worst foreign load"], rows)


def verdict(met):
    return "met" if met else "**missed**"


def against(loads, names, runs):
    """Pelton over the best of the peers, each figure by itself."""
    peers, rows, missed = [n for n in names if not n.startswith("Pelton")], [], 0
    for load in loads:
        ours = {k: figures(runs, load["name"], "Pelton", k) for k in ("tok_s", "ttft_p50")}
        theirs = {k: [(f.mid, p) for p in peers if (f := figures(runs, load["name"], p, k))] for k in ours}
        if not ours["tok_s"] or not theirs["tok_s"]:
            continue
        (fast, by), (soon, first) = max(theirs["tok_s"]), min(theirs["ttft_p50"])
        more, sooner = ours["tok_s"].mid / fast, ours["ttft_p50"].mid / soon
        good = more >= load["tok_s"], sooner <= load["ttft"]
        missed += good.count(False)
        rows.append([load["name"], f"{more:.2f}x", f"≥ {load['tok_s']}x", verdict(good[0]), by, f"{sooner:.2f}x", f"≤ {load['ttft']}x", verdict(good[1]), first])
    return table(["load", "tok/s", "aim", "", "best peer", "TTFT p50", "aim", "", "best peer"], rows), missed


def naive(loads, names, runs):
    """Judged by the export, where there is one; a naive graph with Pelton's attention and cache is less naive."""
    rows, missed = [], 0
    ours = [n for n in names if n.startswith("Pelton,")]
    judged = [n for n in ours if "export" in n] or ours
    for s in ours:
        for load in loads:
            a, b = ({k: figures(runs, load["name"], n, k) for k in ("tok_s", "ttft_p50")} for n in ("Pelton", s))
            if a["tok_s"] and b["tok_s"]:
                more, sooner = a["tok_s"].mid / b["tok_s"].mid, a["ttft_p50"].mid / b["ttft_p50"].mid
                met = [more >= 3, sooner <= 1 / 3]
                missed += met.count(False) if s in judged else 0
                fast, soon = map(verdict, met) if s in judged else ("", "")
                rows.append([load["name"], s, f"{more:.2f}x", "≥ 3x", fast, f"{sooner:.2f}x", "≤ 0.33x", soon])
    return table(["load", "against", "tok/s", "aim", "", "TTFT p50", "aim", ""], rows), missed


def engine(genai, loads, runs):
    """genai has no server for CPUs: its engine alone, all prompts in one batch, beside Pelton's full path."""
    rows = []
    for load in loads:
        g = genai["batch"].get(str(load["concurrency"])) or genai["batch"].get(load["concurrency"])
        ours = figures(runs, load["name"], "Pelton", "tok_s")
        if g and ours and load["input"] == "60":
            rows.append([load["concurrency"], f"{g['output_tok_s']:.0f}", f"{g['ttft_ms']:.0f}", f"{ours.mid:.0f}", f"{figures(runs, load['name'], 'Pelton', 'ttft_p50').mid:.0f}"])
    return table(["batch or concurrency", "genai tok/s", "genai TTFT ms", "Pelton tok/s, through HTTP and queue", "Pelton TTFT p50 ms"], rows)


def limits(p, runs):
    """Decode against the memory's bandwidth, prefill against the matrix products alone."""
    go, rows, missed = p["go"], [], 0
    bandwidth = max((v for k, v in go.items() if k.startswith("Read/")), default=0)
    one = [r["tpot_p50"] for r in runs if r["server"] == "Pelton" and r["load"].endswith("out, 1 open")]
    decode = {"bare engine": next((v for k, v in go.items() if k.startswith("Decode") and k.endswith("/b1")), 0), "full path": 1000 / statistics.median(one) if one else 0}
    for where, rate in decode.items():
        if rate and bandwidth:
            used = rate * p["weights"]["bytes"] / 1e9
            missed += used < 0.8 * bandwidth
            rows.append([f"decode at batch 1, {where}", f"{rate:.0f} tok/s × {p['weights']['bytes'] / 1e6:.0f} MB = {used:.1f} GB/s", f"{bandwidth:.1f} GB/s read", f"{100 * used / bandwidth:.0f} %", "≥ 80 %", verdict(used >= 0.8 * bandwidth)])
    prefill = next((v for k, v in go.items() if k.startswith("Prefill") and k.endswith("/512")), 0)
    for n, g in p["gemm"].items():
        if g and prefill:
            best = g["tokens_per_second"][g["fastest"]]
            missed += prefill < 0.7 * best
            rows.append([f"prefill of 512, products of {n} rows", f"{prefill:.0f} tok/s", f"{best:.0f} tok/s ({g['fastest']})", f"{100 * prefill / best:.0f} %", "≥ 70 %", verdict(prefill >= 0.7 * best)])
    return table(["what", "reached", "limit", "share", "aim", ""], rows), missed


def markdown(r):
    runs, loads = r["runs"], r["loads"]
    names = list(dict.fromkeys(x["server"] for x in runs))
    compared, missed = against(loads, names, runs)
    exported, more = naive(loads, names, runs)
    limited, most = limits(r["probes"], runs)
    parts = [
        f"Measured {r['date']} on {r['machine']}, {r['rounds']} rounds by turns, {r['minutes']:.0f} minutes. Versions: {', '.join(v for v in r['versions'].values() if v)}. Pelton's variant: {r['probes']['weights']['variant']}. Figures are medians over the rounds (least–greatest).\n",
        "### Against the best peer\n", compared, "### Against the naive export in the same runtime\n", exported, "### Share of the machine's limit\n", limited,
        "### All figures\n", every_run(loads, names, runs),
    ]
    if r["probes"].get("genai"):
        parts += ["### onnxruntime-genai, engine alone\n", engine(r["probes"]["genai"], loads, runs)]
    parts += ["### Largest resident memory\n", table(["server", "MiB"], [[k, f"{v:.0f}"] for k, v in r["memory_mib"].items()]), "### Notes\n", "\n".join("- " + " ".join(n.split()) for n in r["notes"])]
    return "\n".join(parts), missed + more + most


if __name__ == "__main__":
    print(markdown(json.load(open(sys.argv[1])))[0])
