"""Writes the small exports of other tools in this folder, with random weights, and exports.json: the tokens
that Python's onnxruntime generates greedily with each.

    python -m venv a && a/bin/pip install torch==2.13.0 transformers==5.23.0 onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 onnx-ir sympy
    python -m venv b && b/bin/pip install torch==2.13.0 "transformers<4.58" optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 onnxscript
    a/bin/python exports.py model DIR                 # a Llama model in Hugging Face's layout
    a/bin/python -m onnxruntime_genai.models.builder -i DIR/hf -o DIR/genai-fp32 -p fp32 -e cpu -c DIR/cache
    a/bin/python -m onnxruntime_genai.models.builder -i DIR/hf -o DIR/genai-int4 -p int4 -e cpu -c DIR/cache
    b/bin/optimum-cli export onnx --model DIR/hf --task text-generation-with-past DIR/optimum
    b/bin/python exports.py variants DIR              # merged, fp16, int8, without mask and positions
    a/bin/python exports.py pack DIR                  # zips them here, and runs them

The weights are multiples of 1/64, so that the files pack well.
"""
import gzip, json, pathlib, shutil, sys, zipfile

HERE = pathlib.Path(__file__).parent
ORDER = ["genai-fp32", "genai-int4", "optimum", "optimum-merged", "optimum-fp16", "optimum-int8", "optimum-bare"]
PROMPTS = [[5, 200, 77, 31, 1000, 7, 7], [900], list(range(300, 340))]
NEW = 12


def model(to):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    torch.manual_seed(5)
    shutil.rmtree(to / "hf", ignore_errors=True)
    (to / "hf").mkdir(parents=True)
    words = HERE / "../../tokenizer/testdata/variant-llama3.tokenizer.json.gz"
    plain = to / "tokenizer.json"
    plain.write_bytes(gzip.decompress(words.read_bytes()))
    t = PreTrainedTokenizerFast(tokenizer_file=str(plain), eos_token="<|end|>")
    t.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    c = LlamaConfig(vocab_size=len(t), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    max_position_embeddings=512, rope_theta=1000.0, tie_word_embeddings=True, bos_token_id=None, eos_token_id=t.eos_token_id)
    m = LlamaForCausalLM(c).eval()
    with torch.no_grad():
        for p in m.parameters():
            if p.dim() > 1:
                p.copy_(torch.clamp(torch.round(torch.randn_like(p) * 12), -60, 60) / 64)
    m.save_pretrained(to / "hf")
    t.save_pretrained(to / "hf")
    config = json.loads((to / "hf" / "config.json").read_text())
    (to / "hf" / "config.json").write_text(json.dumps(config | {"rope_theta": 1000.0}, indent=2))  # where older versions look


def variants(to):
    import onnx
    from onnx import TensorProto, helper
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from optimum.onnx import merge_decoders
    source = to / "optimum" / "model.onnx"
    for name in ORDER[3:]:
        (to / name).mkdir(exist_ok=True)
        (to / name / "config.json").write_bytes((to / "hf" / "config.json").read_bytes())
    with_past = onnx.load(source)
    first = onnx.load(source)  # the first pass, without a cache
    past = [i for i in first.graph.input if i.name.startswith("past_key_values")]
    for i in past:
        first.graph.input.remove(i)
        for node in first.graph.node:
            node.input[:] = ["no_" + n if n == i.name else n for n in node.input]
        empty = helper.make_tensor(i.name + "_empty", TensorProto.FLOAT, [1, 2, 0, 16], [])
        first.graph.node.insert(0, helper.make_node("Constant", [], ["no_" + i.name], value=empty))
    merge_decoders(first, with_past, save_path=to / "optimum-merged" / "decoder_model_merged.onnx", strict=False)
    half = convert_float_to_float16(onnx.load(source), keep_io_types=False)
    onnx.save(half, to / "optimum-fp16" / "model_fp16.onnx")
    # In 7 bits: processors without VNNI add pairs of products in 16 bits, which 8 bits overflow.
    quantize_dynamic(source, to / "optimum-int8" / "model_quantized.onnx", weight_type=QuantType.QInt8, reduce_range=True)
    # Without mask and positions both are computed from the shapes, as in exports for one sequence.
    bare = onnx.load(source)
    for name in ("attention_mask", "position_ids"):
        bare.graph.input.remove(next(i for i in bare.graph.input if i.name == name))
    n = [helper.make_node("Shape", ["input_ids"], ["bare_ids"]), helper.make_node("Shape", ["past_key_values.0.key"], ["bare_past"])]
    for name, value in (("bare_0", [0]), ("bare_1", [1]), ("bare_2", [2])):
        bare.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    n += [helper.make_node("Gather", ["bare_ids", "bare_1"], ["bare_s"]), helper.make_node("Gather", ["bare_past", "bare_2"], ["bare_p"]),
          helper.make_node("Add", ["bare_s", "bare_p"], ["bare_total"]), helper.make_node("Gather", ["bare_ids", "bare_0"], ["bare_b"]),
          helper.make_node("Concat", ["bare_b", "bare_total"], ["bare_shape"], axis=0),
          helper.make_node("ConstantOfShape", ["bare_shape"], ["attention_mask"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])),
          helper.make_node("Squeeze", ["bare_p"], ["bare_from"]), helper.make_node("Squeeze", ["bare_total"], ["bare_to"]),
          helper.make_node("Squeeze", ["bare_1"], ["bare_step"]), helper.make_node("Range", ["bare_from", "bare_to", "bare_step"], ["bare_range"]),
          helper.make_node("Unsqueeze", ["bare_range", "bare_0"], ["position_ids"])]
    for node in reversed(n):
        bare.graph.node.insert(0, node)
    onnx.save(bare, to / "optimum-bare" / "model.onnx")


def generate(path, prompt):
    import numpy as np, onnxruntime as ort
    s = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    cache = {i.name: np.zeros((1, 2, 0, 16), kinds[i.type]) for i in s.get_inputs() if i.name.startswith("past_key_values")}
    names, out, ids, past, first = [i.name for i in s.get_inputs()], [], prompt, 0, None
    for _ in range(NEW):
        feed = dict(cache, input_ids=np.array([ids], np.int64))
        if "attention_mask" in names:
            feed["attention_mask"] = np.ones((1, past + len(ids)), np.int64)
        if "position_ids" in names:
            feed["position_ids"] = np.arange(past, past + len(ids), dtype=np.int64)[None]
        if "use_cache_branch" in names:
            feed["use_cache_branch"] = np.array([past > 0])
        got = dict(zip([o.name for o in s.get_outputs()], s.run(None, feed)))
        logits = got["logits"][0, -1].astype(np.float32)
        first = logits if first is None else first
        past += len(ids)
        ids = [int(logits.argmax())]
        out += ids
        cache = {k: got["present" + k.removeprefix("past_key_values")] for k in cache}
    return out, first


def pack(to):
    words = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"]
    rows = []
    for name in ORDER:
        files = sorted(p for p in (to / name).iterdir() if p.suffix in (".onnx", ".data", ".json", ".jinja"))
        graph = next(p for p in files if p.suffix == ".onnx")
        with zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
            put = lambda at, p: z.writestr(zipfile.ZipInfo(at), p.read_bytes(), zipfile.ZIP_DEFLATED)
            for p in files:
                put(("onnx/" if name in ORDER[3:6] else "") + p.name if p.suffix == ".onnx" else p.name, p)
            for w in words:
                if (to / "hf" / w).exists() and not (to / name / w).exists():
                    put(w, to / "hf" / w)
        for prompt in PROMPTS:
            tokens, logits = generate(graph, prompt)
            if "int" not in name and "16" not in name:  # all are the same model
                assert tokens == next((r["tokens"] for r in rows if r["prompt"] == prompt), tokens), (name, prompt, tokens)
            rows.append({"export": name, "prompt": prompt, "tokens": tokens, "logits": [float(f"{v:.6g}") for v in logits[::97]], "every": 97})
    (HERE / "exports.json").write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


{"model": model, "variants": variants, "pack": pack}[sys.argv[1]](pathlib.Path(sys.argv[2]))
