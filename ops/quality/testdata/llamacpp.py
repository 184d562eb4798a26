"""Continue transcripts greedily with llama.cpp: an independent implementation to compare with.

usage: llamacpp.py MODEL.gguf < prompts.jsonl > transcripts.jsonl

Reads what `pelton model eval --write` wrote (only id, kind and prompt are used) and writes the same
format. Needs PyPI llama-cpp-python and numpy.
"""
import json
import sys

import numpy as np
from llama_cpp import Llama

TOKENS = 64

llm = Llama(sys.argv[1], n_ctx=2048, logits_all=False, verbose=False)
for line in sys.stdin:
    t = json.loads(line)
    llm.reset()
    llm.eval(t["prompt"])
    tokens, margins = [], []
    while len(tokens) < TOKENS:
        logits = np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),))
        second, first = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[first]:
            first, second = second, first
        tokens.append(int(first))
        margins.append(float(logits[first] - logits[second]))
        llm.eval([tokens[-1]])
    print(json.dumps({"id": t["id"], "kind": t["kind"], "prompt": t["prompt"], "tokens": tokens, "margins": margins}), flush=True)
