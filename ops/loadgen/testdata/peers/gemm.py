"""The prompt tokens a second that ONNX Runtime's matrix products alone would allow: the fastest integer
product that it has, on the shapes of the model's layers, over rows of ROWS tokens. Prints JSON.

    gemm.py ROWS [THREADS]

Attention, norms and everything else is left out: it is a limit, not a goal. The time of a shape is its
fastest run, because other work on the machine only adds to it.
"""
import json, sys, time
import numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper as h

rows, threads = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
LAYERS = 30
SHAPES = {"qkv": (576, 960), "out": (576, 576), "gate+up": (576, 3072), "down": (1536, 576)}  # K, N
rng = np.random.default_rng(1)


def constant(name, value):
    return onnx.numpy_helper.from_array(value, name)


def integer(k, n):
    """Bytes in, 32-bit sums out: nothing but the product."""
    weights = constant("w", rng.integers(-127, 127, (k, n), dtype=np.int8))
    return [h.make_node("MatMulInteger", ["x", "w"], ["y"])], [weights], T.UINT8, T.INT32


def dynamic(k, n):
    """Floats in and out, quantized with one scale for all rows."""
    parts = [constant("w", rng.integers(-127, 127, (k, n), dtype=np.int8)), constant("s", np.full(n, 0.01, np.float32)), constant("z", np.zeros(n, np.int8))]
    return [h.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")], parts, T.FLOAT, T.FLOAT


def blocks(bits):
    """Floats in and out, a scale for each block of 32 weights: what GGUF's formats map onto."""
    def make(k, n):
        parts = [constant("w", rng.integers(0, 255, (n, k // 32, 4 * bits), dtype=np.uint8)), constant("s", np.full((n, k // 32), 0.01, np.float32))]
        node = h.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=32, accuracy_level=4)
        return [node], parts, T.FLOAT, T.FLOAT
    return make


def seconds(make, k, n):
    nodes, parts, into, out = make(k, n)
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", into, [rows, k])], [h.make_tensor_value_info("y", out, [rows, n])], parts)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = rng.integers(0, 255, (rows, k)).astype(np.uint8 if into == T.UINT8 else np.float32)
    bound = session.io_binding()
    bound.bind_cpu_input("x", x)
    bound.bind_output("y")
    best, until = 1e9, time.perf_counter() + 0.25
    while time.perf_counter() < until or best == 1e9:
        start = time.perf_counter()
        session.run_with_iobinding(bound)
        best = min(best, time.perf_counter() - start)
    return best


found = {}
for name, make in {"MatMulInteger": integer, "DynamicQuantizeMatMul": dynamic, "MatMulNBits 8": blocks(8), "MatMulNBits 4": blocks(4)}.items():
    try:
        found[name] = rows / (LAYERS * sum(seconds(make, k, n) for k, n in SHAPES.values()))
    except Exception as e:  # a kernel that this version or CPU has not
        found[name] = 0
        print(f"{name}: {e}", file=sys.stderr)
best = max(found, key=found.get)
print(json.dumps({"version": onnxruntime.__version__, "rows": rows, "threads": threads, "tokens_per_second": found, "fastest": best}))
