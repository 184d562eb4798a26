"""What Hugging Face transformers makes of the same model on the same GPU: batches of one length with generate, and its
continuous batching. The weights are those of a model folder of variant fp16.

    bench_gpu.py FOLDER         measures
    bench_gpu.py FOLDER TARGET  only writes the model to the folder TARGET, as other servers read it

Needs torch, transformers, onnx and numpy; run by `make bench-gpu`."""
import json
import pathlib
import sys
import time

import onnx
import torch
from onnx import numpy_helper
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
with open(folder + "/manifest.json") as f:
    shape = json.load(f)["shape"]
graph = onnx.load(folder + "/model.onnx").graph
weights = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer if i.name not in ("cos", "sin")}
epsilon = next(a.f for n in graph.node for a in n.attribute if a.name == "epsilon")
config = LlamaConfig(
    vocab_size=shape["vocab"], hidden_size=shape["hidden"], intermediate_size=shape["ffn"], num_hidden_layers=shape["layers"],
    num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], head_dim=shape["head_dim"],
    max_position_embeddings=shape["context_length"], rms_norm_eps=epsilon, rope_theta=100000.0, tie_word_embeddings=True,
)
config.rope_parameters = {"rope_type": "default", "rope_theta": 100000.0}
q, kv, ffn = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"], shape["ffn"]
state = {"model.embed_tokens.weight": weights["embed"], "lm_head.weight": weights["embed"], "model.norm.weight": weights["output_norm.weight"]}
for i in range(shape["layers"]):
    to, of = f"model.layers.{i}.", f"blk.{i}."
    qkv, gate_up = weights[of + "qkv"].T.contiguous(), weights[of + "gate_up"].T.contiguous()
    state |= {
        to + "self_attn.q_proj.weight": qkv[:q], to + "self_attn.k_proj.weight": qkv[q : q + kv], to + "self_attn.v_proj.weight": qkv[q + kv :],
        to + "self_attn.o_proj.weight": weights[of + "o"].T.contiguous(), to + "mlp.gate_proj.weight": gate_up[:ffn],
        to + "mlp.up_proj.weight": gate_up[ffn:], to + "mlp.down_proj.weight": weights[of + "down"].T.contiguous(),
        to + "input_layernorm.weight": weights[of + "attn_norm.weight"], to + "post_attention_layernorm.weight": weights[of + "ffn_norm.weight"],
    }
model = LlamaForCausalLM(config).to(torch.float16)
model.load_state_dict(state, strict=True)
if len(sys.argv) > 2:
    words = PreTrainedTokenizerFast(tokenizer_file=folder + "/tokenizer.json", bos_token="<|im_start|>", eos_token="<|im_end|>")
    words.chat_template = pathlib.Path(folder, "chat_template.jinja").read_text()
    words.save_pretrained(sys.argv[2])
    model.save_pretrained(sys.argv[2])
    sys.exit()
model = model.cuda().eval()
PROMPT, OUTPUT = 70, 64


def prompts(n):
    return torch.randint(0, shape["vocab"], (n, PROMPT), device="cuda")


def took(n, output):
    start = time.perf_counter()
    model.generate(prompts(n), max_new_tokens=output, min_new_tokens=output, do_sample=False, pad_token_id=0, eos_token_id=None)
    torch.cuda.synchronize()
    return time.perf_counter() - start


with torch.no_grad():
    took(1, 2)
    for n in (1, 8, 32, 128, 256):
        first, all_ = took(n, 1), took(n, OUTPUT)
        print(f"transformers, generate, {n} at once: first token {first * 1e3:.1f} ms, {n * OUTPUT / all_:.0f} tokens/s", flush=True)
model.set_attn_implementation("paged|sdpa")
settings = GenerationConfig(max_new_tokens=OUTPUT, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cuda_graph=True)
for n in (64, 1000):  # the first warms up
    inputs = prompts(n).tolist()
    start = time.perf_counter()
    out = model.generate_batch(inputs=inputs, generation_config=settings, progress_bar=False)
    rate = sum(len(o.generated_tokens) for o in out.values()) / (time.perf_counter() - start)
    print(f"transformers, continuous batching of {n} prompts: {rate:.0f} tokens/s", flush=True)
