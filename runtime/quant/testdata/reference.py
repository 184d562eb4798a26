"""Writes formats.json: random blocks of each format and what they hold, by the reference code of the
PyPI package gguf (pip install gguf==0.19.0, then: python reference.py > formats.json). Values are the bits
of float32 numbers, in hexadecimal, little-endian."""
import json

import numpy as np
from gguf import GGMLQuantizationType, quants

# Where a block keeps its half-precision scales: random bytes would make them NaN or infinite there.
SCALES = {"F32": [], "F16": [], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
          "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0]}
SIZES = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22),
         "Q5_1": (32, 24), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
         "Q2_K": (256, 84), "Q3_K": (256, 110), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136)}

rng = np.random.default_rng(3)
out = []
for name, (values, size) in SIZES.items():
    blocks = 2 if values > 1 else 64
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    if name == "F32":
        raw = rng.normal(0, 1, blocks).astype(np.float32).view(np.uint8).reshape(blocks, size)
    elif name == "F16":
        raw = rng.normal(0, 1, blocks).astype(np.float16).view(np.uint8).reshape(blocks, size)
    elif name == "BF16":
        raw = (rng.normal(0, 1, blocks).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(blocks, size)
    for at in SCALES[name]:
        raw[:, at:at + 2] = rng.normal(0, 0.1, blocks).astype(np.float16).view(np.uint8).reshape(blocks, 2)
    kind = GGMLQuantizationType[name]
    if name == "F32":
        want = raw.copy().view(np.float32)
    else:
        want = quants.dequantize(raw.reshape(1, -1) if values == 1 else raw.reshape(blocks, size), kind)
    want = np.ascontiguousarray(want.astype(np.float32)).reshape(-1)
    assert want.size == values * blocks, (name, want.shape)
    out.append({"format": int(kind), "name": name, "raw": raw.tobytes().hex(), "want": want.tobytes().hex()})
print("[\n" + ",\n".join(json.dumps(o) for o in out) + "\n]")
