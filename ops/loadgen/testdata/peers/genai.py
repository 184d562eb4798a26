"""onnxruntime-genai as it is on a CPU: an engine with static batches, no server. Prints JSON: for each
batch size the time of the first token and the tokens a second of the batch to its last token.

    genai.py MODEL INPUT OUTPUT BATCH...
"""
import json, sys, time
import numpy as np, onnxruntime_genai as og

folder, inputs, outputs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)
config = og.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}, "search": {"do_sample": False}}))
model = og.Model(config)


def once(batch):
    """All prompts at once, then steps of one token a sequence: what a server above it could at best do."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=inputs + outputs, min_length=inputs + outputs, batch_size=batch, do_sample=False)
    generator = og.Generator(model, params)
    start = time.perf_counter()
    generator.append_tokens(rng.integers(100, 40000, (batch, inputs), dtype=np.int32))
    generator.generate_next_token()
    first = time.perf_counter() - start
    for _ in range(outputs - 1):
        generator.generate_next_token()
    return first, batch * outputs / (time.perf_counter() - start)


once(1)
result = {}
for batch in map(int, sys.argv[4:]):
    runs = [once(batch) for _ in range(3 if batch < 16 else 2)]
    result[batch] = {"ttft_ms": 1000 * sorted(r[0] for r in runs)[len(runs) // 2], "output_tok_s": sorted(r[1] for r in runs)[len(runs) // 2]}
print(json.dumps({"version": og.__version__, "input": inputs, "output": outputs, "batch": result}))
