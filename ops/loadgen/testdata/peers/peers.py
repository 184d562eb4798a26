"""Measures Pelton and its peers by turns on the same two cores with the same model and load, and prints
a table in Markdown. Exit code 8: an aim of the table was missed.

    peers.py PELTON BUILT.json [--rounds 3] [--minutes 20] [--json FILE] [--markdown FILE] [--page FILE] [--quick]

All servers stay up for the whole run and take turns point by point, so that whatever else the machine
does hits all alike; a figure is the median over the rounds, with the least and the greatest beside it.
A run beside which others took more than 20 % of a core (foreign load) is repeated, twice at most and
while the time lasts, and marked if it stays so.
"""
import argparse, collections, datetime, json, os, pathlib, platform, re, signal, subprocess, sys, tempfile, time

import report, servers

args = argparse.ArgumentParser()
args.add_argument("pelton")
args.add_argument("built")
args.add_argument("--rounds", type=int, default=3)
args.add_argument("--minutes", type=float, default=20, help="no run starts later; what is missing then is said")
args.add_argument("--model", default="smollm2", help="Pelton's model and variant")
args.add_argument("--naive", default="smollm2:naive", help="the naive export; smollm2:fp32 where there is none")
args.add_argument("--json")
args.add_argument("--markdown")
args.add_argument("--page", help="Markdown file whose part between the marks <!-- result --> and <!-- end --> becomes the table")
args.add_argument("--only", default="", help="regular expression of the loads that are run")
args.add_argument("--quick", action="store_true", help="two requests a point, one round: does it work at all?")
args = args.parse_args()
HERE, PELTON = pathlib.Path(__file__).parent, pathlib.Path(args.pelton).absolute()
ROOT = HERE.parents[3]
BUILT = json.loads(pathlib.Path(args.built).read_text())
FOREIGN = 20
START = time.time()

Load = collections.namedtuple("Load", "name input output concurrency requests tok_s ttft naive")
# tok_s: least ratio of Pelton's output tokens/s to the best peer's. ttft: greatest ratio of the median TTFT.
LOADS = [
    Load("60 in, 64 out, 1 open", "60", "64", 1, 8, 1.1, 0.7, True),
    Load("60 in, 64 out, 4 open", "60", "64", 4, 16, 1.3, 1.0, False),
    Load("60 in, 64 out, 8 open", "60", "64", 8, 32, 1.5, 0.5, True),
    Load("60 in, 64 out, 16 open", "60", "64", 16, 48, 1.5, 0.5, False),
    Load("60 in, 64 out, 32 open", "60", "64", 32, 64, 1.5, 0.5, False),
    Load("512 in, 64 out, 4 open", "512", "64", 4, 24, 1.0, 1.0, False),
    Load("1500 in, 64 out, 4 open", "1500", "64", 4, 8, 1.0, 1.0, False),
    Load("20-900 in, 16-128 out, 8 open", "20-900", "16-128", 8, 24, 1.0, 1.0, False),
]
if args.quick:
    LOADS, args.rounds = [l._replace(requests=max(2, l.concurrency // 4)) for l in LOADS], 1
LOADS = [l for l in LOADS if re.search(args.only, l.name)]


def say(*words):
    print(f"{time.time() - START:6.0f} s", *words, file=sys.stderr, flush=True)


def bench(server, load, seed):
    """One run of one load on one server; figures as pelton bench reports them."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "report.json"
        command = [PELTON, "bench", "--url", server.url, "--endpoint", "completions", "--concurrency", load.concurrency, "--requests", load.requests, "--duration", "20s",
                   "--input-tokens", load.input, "--output-tokens", load.output, "--seed", seed, "--timeout", "120s", "--json", out]
        if server.model:
            command += ["--model", server.model]
        busy, own, start = servers.busy_seconds(), server.cpu(), time.time()
        client = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  preexec_fn=lambda: os.sched_setaffinity(0, servers.CORES))
        said = client.stderr.read()
        usage = os.wait4(client.pid, 0)[2]
        wall = time.time() - start
        ours = server.cpu() - own + usage.ru_utime + usage.ru_stime
        if not out.exists():
            raise RuntimeError(said.strip()[-300:])
        r = json.loads(out.read_text())
    every = r["pelton"]["all"]
    if not r["completed"]:
        raise RuntimeError("no request completed: " + said.strip()[-300:])
    return {
        "server": server.name, "load": load.name, "tok_s": r["output_throughput"], "ttft_p50": r["p50_ttft_ms"], "ttft_p95": r["p95_ttft_ms"],
        "itl_p50": r["p50_itl_ms"], "itl_p99": r["p99_itl_ms"], "tpot_p50": r["p50_tpot_ms"], "completed": r["completed"], "failed": r["failed"],
        "tokens_a_request": every["output_tokens"] / r["completed"], "pieces_a_request": every["pieces"] / r["completed"],
        "foreign": 100 * max(0, servers.busy_seconds() - busy - ours) / wall, "server_cpu": 100 * (ours - usage.ru_utime - usage.ru_stime) / wall, "seconds": wall,
    }


def time_left():
    return START + 60 * args.minutes - time.time()


def calm(server, load, seed):
    """bench, repeated while others used the cores; the calmest of the tries."""
    tries = []
    while not tries or (tries[-1]["foreign"] > FOREIGN and len(tries) < 3 and time_left() > 60 * args.minutes / 4 and not args.quick):
        tries.append(bench(server, load, seed + 7919 * len(tries)))
        t = tries[-1]
        say(f"{server.name:28} {load.name:30} {t['tok_s']:7.1f} tok/s  TTFT {t['ttft_p50']:7.0f} ms  ITL {t['itl_p50']:6.1f} ms  foreign {t['foreign']:3.0f} %")
    return min(tries, key=lambda t: t["foreign"])


def faster_llama(built, notes):
    """Q4_0 or Q8_0: whichever llama-bench finds faster at the load's mix of prompt and output tokens."""
    seconds, said = {}, []
    for kind, path in built["models"].items():
        if args.quick:
            break
        out = output_of([built["bin"] + "/llama-bench", "-m", path, "-t", "2", "-p", "64", "-n", "64", "-r", "3", "-o", "json"], seconds=90)
        rates = {"pp" if t["n_prompt"] else "tg": t["avg_ts"] for t in json.loads(out or "[]")}
        if rates:
            seconds[kind] = 60 / rates["pp"] + 64 / rates["tg"]
            said.append(f"{kind} {rates['pp']:.0f} and {rates['tg']:.0f}")
    notes.append("llama-bench, prompt and generated tokens/s: " + (", ".join(said) or "not measured"))
    return min(seconds, key=seconds.get, default="Q4_0")


def start_all(started, notes):
    """Starts every server that there is; those that are not ready in time are stopped and noted."""
    for peer in ("llama", "vllm"):
        if "version" not in BUILT.get(peer, {}):
            notes.append(f"{peer} is left out: {BUILT.get(peer, {}).get('missing', 'not asked for')}")
    kind = faster_llama(BUILT["llama"], notes) if "version" in BUILT.get("llama", {}) else None
    started.append(servers.pelton(PELTON, "Pelton", args.model))
    naive = args.naive
    if subprocess.run([PELTON, "model", "pull", naive], capture_output=True).returncode:
        naive = "smollm2:fp32"
        subprocess.run([PELTON, "model", "pull", naive], check=True, capture_output=True)
    started.append(servers.pelton(PELTON, f"Pelton, {naive.partition(':')[2]} graph with its own attention and cache", naive))
    if "version" in BUILT.get("export", {}):
        subprocess.run([PELTON, "model", "pull", BUILT["export"]["model"]], check=True, capture_output=True)
        started.append(servers.pelton(PELTON, "Pelton, naive export by Optimum", pathlib.Path(BUILT["export"]["model"]).name + ":fp32"))
    else:
        notes.append(f"Optimum's export is left out: {BUILT.get('export', {}).get('missing', 'not asked for')}")
    if kind:
        started.append(servers.llama(BUILT["llama"], kind, servers.SLOTS, servers.CONTEXT))
    if "version" in BUILT.get("vllm", {}):
        started.append(servers.vllm(BUILT["vllm"], servers.SLOTS, servers.CONTEXT))
    for s in list(started):
        if s.wait():
            say(s.name, "is ready")
        else:
            notes.append(f"{s.name} did not become ready: {s.tail()[-300:]}")
            s.stop()
            started.remove(s)


def output_of(command, seconds=240, **options):
    """What a probe prints, or "" if it fails."""
    try:
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds, check=True, preexec_fn=lambda: os.sched_setaffinity(0, servers.CORES), **options).stdout
    except (subprocess.SubprocessError, OSError) as e:
        say("probe failed:", e)
        return ""


def metrics(text):
    """name -> value of the custom metrics of go test -bench."""
    return {m[1]: float(m[2]) for m in re.finditer(r"(?m)^Benchmark(\S+?)(?:-\d+)?\s.*?([\d.]+) (?:best-GB/s|best-tok/s|tok/s)", text)}


def probes(cache):
    """Limits of the machine and what the bare engines reach, with nothing else running."""
    found = metrics(output_of([cache / "memory.test", "-test.run", "^$", "-test.bench", "Read", "-test.benchtime", "30x"], cwd=ROOT / "runtime/memory"))
    result = {"go": found, "gemm": {}}
    for _ in range(1 if args.quick else 3):  # by turns; of each, the fastest counts
        for name, rate in metrics(output_of([cache / "onnx.test", "-test.run", "^$", "-test.bench", "^Benchmark(Decode|Prefill)$/^(spin=auto|512)$", "-test.benchtime", "1s"], cwd=ROOT / "runtime/onnx")).items():
            found[name] = max(rate, found.get(name, 0))
        for rows in ([64] if args.quick else [64, 512]) if "python" in BUILT.get("probe", {}) else []:
            rates = json.loads(output_of([BUILT["probe"]["python"], HERE / "gemm.py", rows]) or "{}").get("tokens_per_second", {})
            best = result["gemm"].setdefault(rows, {"tokens_per_second": {}})["tokens_per_second"]
            best.update({k: max(v, best.get(k, 0)) for k, v in rates.items()})
    result["gemm"] = {n: {**g, "fastest": max(g["tokens_per_second"], key=g["tokens_per_second"].get)} for n, g in result["gemm"].items() if g["tokens_per_second"]}
    if "model" in BUILT.get("genai", {}):
        result["genai"] = json.loads(output_of([BUILT["genai"]["python"], HERE / "genai.py", BUILT["genai"]["model"], 60, 64, *([1] if args.quick else [1, 4, 8, 16, 32])]) or "null")
    shown = json.loads(output_of([PELTON, "model", "show", args.model, "-o", "json"]) or "{}")
    result["weights"] = {"variant": shown.get("variant"), "bytes": sum(f["size"] for f in shown.get("files", []) if f["name"].startswith("weights"))}
    return result


def take_turns(started, notes):
    """All rounds; what the time or an interruption cut off is noted."""
    runs, missing = [], collections.defaultdict(dict)
    for n in range(args.rounds):
        for i, load in enumerate(LOADS):
            for s in started[n % len(started):] + started[:n % len(started)]:
                naive = s.name.startswith("Pelton,")
                if naive and not load.naive:
                    continue
                if time_left() < 0:
                    missing[load.name][str(n + 1)] = True
                    continue
                try:
                    # everyone gets the same prompts, and no two points or rounds share one
                    runs.append({"round": n + 1, **calm(s, load._replace(requests=max(load.concurrency, load.requests // 2)) if naive and not args.quick else load, 1000 * (n + 1) + 10 * i + 1)})
                except RuntimeError as e:
                    notes.append(f"{s.name}, {load.name}, round {n + 1} failed: {e}")
                    say(notes[-1])
                except KeyboardInterrupt:
                    notes.append("the run was interrupted")
                    return runs
    for name, rounds in missing.items():
        notes.append(f"time is up: {name} was not run, or not by all, in round {', '.join(rounds)}")
    return runs


def idle_load(started):
    """What the servers take of a core while nobody asks, in %."""
    before, since = sum(s.cpu() for s in started), time.time()
    time.sleep(1 if args.quick else 5)
    return 100 * (sum(s.cpu() for s in started) - before) / (time.time() - since)


def machine():
    cpu = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"(?m)^model name\s*: (.*)$", cpu)
    kinds = [k for k in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16") if k in cpu]
    return f"{model[1] if model else platform.machine()}, {len(servers.CORES)} cores ({' '.join(kinds)})"


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    notes, started = [], []
    probed = probes(pathlib.Path(args.built).absolute().parent)
    say("probes done")
    try:
        start_all(started, notes)  # fills started as it goes, so that all of them are stopped
        notes.append(f"idle, all servers together take {idle_load(started):.1f} % of a core; that of the others is part of the foreign load")
        runs = take_turns(started, notes)
        memory = {s.name: s.resident() for s in started}
    finally:
        for s in started:
            s.stop()
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"), "machine": machine(), "rounds": args.rounds, "minutes": (time.time() - START) / 60,
        "versions": {k: v.get("version") for k, v in BUILT.items()}, "loads": [l._asdict() for l in LOADS], "runs": runs, "memory_mib": memory, "probes": probed, "notes": notes,
    }
    text, missed = report.markdown(result)
    print(text)
    for path, content in ((args.json, json.dumps(result, indent=1)), (args.markdown, text)):
        if path:
            pathlib.Path(path).write_text(content + "\n")
    if args.page:
        page = pathlib.Path(args.page)
        before, _, rest = page.read_text().partition("<!-- result -->")
        page.write_text(f"{before}<!-- result -->\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")
    return 8 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
