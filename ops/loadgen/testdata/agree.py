"""Runs pelton bench and NVIDIA's aiperf by turns against the same fleet on a modelled device, with the
same load, and prints how far apart they are. Exit code 8: more than 2 % on the median TTFT or 5 % on the p99.

    agree.py PELTON AIPERF [ROUNDS]

Both send the same number of prompts of the same length to /v1/completions in a closed loop of one, and
count the server's tokens: there a time from the planned moment, as ours are, and one from the sending,
as theirs are, is the same. They take turns, and the figure of a tool is the median over the rounds,
for the p99 the least: whatever else the machine does only adds to it, and seldom to both alike. The
medians of the p99 are printed beside, so that a busy machine shows.
"""
import contextlib, json, pathlib, random, statistics, subprocess, sys, tempfile

pelton, aiperf = (pathlib.Path(p).absolute() for p in sys.argv[1:3])
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
url = "http://127.0.0.1:18988"
REQUESTS, INPUT, OUTPUT = 100, 4000, 8
words = "river turbine water wheel light mountain story question between family country letter".split()


def prompt(rng):
    text = ""
    while len(text) < INPUT:
        text += rng.choice(words) + " "
    return text[:INPUT]


def tokenizer(folder):
    """aiperf wants one even where the server counts: one token a byte, as the simulated model's."""
    code = """if True:
        import sys
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=t).save_pretrained(sys.argv[1])"""
    subprocess.run([pathlib.Path(aiperf).parent / "python", "-c", code, folder / "tokenizer"], check=True, stdout=subprocess.DEVNULL)
    return folder / "tokenizer"


def ours(folder):
    out = folder / "ours.json"
    subprocess.run([pelton, "bench", "--url", url, "--model", "sim", "--endpoint", "completions", "--concurrency", "1",
                    "--requests", str(REQUESTS), "--duration", "10m", "--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--json", out],
                   check=True, stdout=subprocess.DEVNULL)
    r = json.loads(out.read_text())
    assert r["completed"] == REQUESTS, r["pelton"]["all"]["outcomes"]
    return {"ttft p50": r["p50_ttft_ms"], "ttft p99": r["p99_ttft_ms"], "e2e p50": r["p50_e2el_ms"], "e2e p99": r["p99_e2el_ms"],
            "input tokens": r["total_input_tokens"] / REQUESTS, "output tokens": r["total_output_tokens"] / REQUESTS}


def theirs(folder, seed):
    prompts = folder / "prompts.jsonl"
    rng = random.Random(seed)
    prompts.write_text("".join(json.dumps({"text": prompt(rng)}) + "\n" for _ in range(REQUESTS)))
    done = subprocess.run([aiperf, "profile", "--model", "sim", "--url", url, "--endpoint-type", "completions", "--streaming", "--tokenizer", tokenizer(folder),
                           "--use-server-token-count", "--input-file", prompts, "--custom-dataset-type", "single_turn",
                           "--dataset-sampling-strategy", "sequential", "--concurrency", "1",
                           "--request-count", str(REQUESTS), "--extra-inputs", json.dumps({"max_tokens": OUTPUT, "temperature": 0, "ignore_eos": True}),
                           "--workers-max", "1", "--ui", "none", "--artifact-dir", folder / "aiperf"],
                          cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = list(folder.glob("aiperf/**/profile_export_aiperf.json"))
    if done.returncode != 0 or not found:
        sys.exit("aiperf failed:\n" + done.stdout[-4000:])
    r = json.loads(found[0].read_text())
    return {"ttft p50": r["time_to_first_token"]["p50"], "ttft p99": r["time_to_first_token"]["p99"],
            "e2e p50": r["request_latency"]["p50"], "e2e p99": r["request_latency"]["p99"],
            "input tokens": r["input_sequence_length"]["avg"], "output tokens": r["output_sequence_length"]["avg"]}


@contextlib.contextmanager
def fleet():
    """A slow device, so that the time of the tools themselves weighs little; ends with the block."""
    with tempfile.TemporaryDirectory() as data:
        up = subprocess.Popen([pelton, "up", "--engine", "sim", "--device", "sim:l40s", "--http", url.removeprefix("http://"), "--nats", "127.0.0.1:18989", "--data", data],
                              stdout=subprocess.PIPE, text=True)
        try:
            if not any(line.strip() == "ready" for line in up.stdout):
                sys.exit("the fleet ended before it was ready")
            yield
        finally:
            up.terminate()
            up.wait()


runs = []
with fleet():
    for n in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            runs.append((ours(folder), theirs(folder, n)))
        print("round", n + 1, *runs[-1], sep="\n  ", flush=True)
print(f"{'':14}{'pelton':>10}{'aiperf':>10}{'apart':>9}")
bad = False
for key in runs[0][0]:
    pick = min if key.endswith("p99") else statistics.median
    a, b = (pick(r[i][key] for r in runs) for i in (0, 1))
    limit = {"ttft p50": 0.02, "ttft p99": 0.05}.get(key)
    bad |= limit is not None and abs(a - b) > limit * b
    print(f"{key:14}{a:10.2f}{b:10.2f}{100 * (a - b) / b:+8.2f} %" + (f"  (limit {100 * limit:.0f} %)" if limit else "")
          + ("  (medians " + " and ".join(f"{statistics.median(r[i][key] for r in runs):.2f}" for i in (0, 1)) + ")" if pick is min else ""))
sys.exit(8 if bad else 0)
