"""Requantizes a GGUF file into the common formats with llama.cpp's own code and writes what llama.cpp computes.

    pip install llama-cpp-python==0.3.36 numpy
    python quantized.py MODEL.gguf OUT

OUT gets FORMAT.gguf, FORMAT.logits (float32, one row of the vocabulary for each token) and tokens.json. `make quantized`
runs it and the Go test that compares.
"""
import json, os, pathlib, sys

import llama_cpp, numpy as np

FORMATS = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18,
           "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32}
TEXT = ("The Pelton wheel is an impulse turbine invented by Lester Allan Pelton in the 1870s. Water jets at high speed strike its buckets, "
        "which split each jet into two and turn it back. def area(r):\n    return 3.14159 * r ** 2\n")

source, out = sys.argv[1], pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
for name, kind in FORMATS.items():
    path = out / f"{name}.gguf"
    if not path.exists():
        p = llama_cpp.llama_model_quantize_default_params()
        p.ftype, p.allow_requantize, p.nthread = kind, True, os.cpu_count()
        part = out / f"{name}.part"
        if llama_cpp.llama_model_quantize(source.encode(), str(part).encode(), p) != 0:
            sys.exit(f"{name}: llama.cpp cannot quantize {source}")
        part.rename(path)
    m = llama_cpp.Llama(str(path), logits_all=True, n_ctx=256, n_batch=1, n_ubatch=1, type_k=0, type_v=0, flash_attn=False, verbose=False)
    tokens = m.tokenize(TEXT.encode(), add_bos=False)
    m.eval(tokens)
    m.scores[: len(tokens)].astype(np.float32).tofile(out / f"{name}.logits")
    (out / "tokens.json").write_text(json.dumps(tokens))
    del m
