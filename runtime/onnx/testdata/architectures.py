"""Writes one small GGUF file with random weights for each architecture that runtime/convert knows, and
architectures.json: what llama.cpp makes of them (logits behind each of some tokens, ids of some texts).

    pip install gguf==0.19.0 sentencepiece==0.2.1 llama-cpp-python==0.3.36
    python architectures.py

Weights are multiples of 1/64, so that the files pack well; vocabularies are trained here, on the texts below.
"""
import gzip, json, os, pathlib, tempfile

import gguf, numpy as np, sentencepiece
from llama_cpp import Llama

HERE = pathlib.Path(__file__).parent
CORPUS = ["The quick brown fox jumps over the lazy dog. ", "Pack my box with five dozen liquor jugs! ", "how much wood would a woodchuck chuck, "
          "if a woodchuck could chuck wood? ", "Numbers: 1234567 and 3.14; the café is naïve. ", "def f(x):\n    return x + 1\n"] * 8
TEXTS = ["The fox", " a  woodchuck", "naïve café 123 4567", "", "日本語 ✓", "how\nmuch\n\n wood", "  leading and trailing  ", "x\t\ty <s> </s>", "it's we'LL"]
HIDDEN, DIM, FFN, LAYERS, CONTEXT = 32, 16, 64, 2, 64
TOKENS = [1, 17, 45, 45, 200, 90, 8, 131, 77, 3, 60, 222]


def sentence_pieces():
    with tempfile.TemporaryDirectory() as d:
        text = pathlib.Path(d) / "t.txt"
        text.write_text("\n".join(CORPUS))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=d + "/m", vocab_size=360, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=True, minloglevel=2, split_digits=True, allow_whitespace_only_pieces=True)
        p = sentencepiece.SentencePieceProcessor(model_file=d + "/m.model")
    kinds = [2 if p.IsUnknown(i) else 3 if p.IsControl(i) else 6 if p.IsByte(i) else 1 for i in range(p.vocab_size())]
    return p, [p.IdToPiece(i) for i in range(p.vocab_size())], [p.GetScore(i) for i in range(p.vocab_size())], kinds


def byte_pairs():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=310, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(t.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return tokens + special, [1] * len(tokens) + [3] * len(special), merges


def write(path, arch, tied):
    HEADS, KV = (2, 1) if arch == "qwen2" else (4, 2)  # llama.cpp wants square query matrices of qwen2
    rng = np.random.default_rng(len(arch) * 10 + int(arch[-1] in "23") + ord(arch[-1]))
    w = gguf.GGUFWriter(path, arch)
    w.add_name("Tiny " + arch)
    w.add_context_length(CONTEXT), w.add_embedding_length(HIDDEN), w.add_block_count(LAYERS), w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS), w.add_head_count_kv(KV), w.add_key_length(DIM), w.add_value_length(DIM)
    w.add_rope_dimension_count(DIM), w.add_rope_freq_base(1000.0), w.add_layer_norm_rms_eps(1e-5)
    if arch == "llama":
        _, tokens, scores, kinds = sentence_pieces()
        w.add_tokenizer_model("llama"), w.add_token_list(tokens), w.add_token_scores(scores), w.add_token_types(kinds)
        w.add_bos_token_id(1), w.add_eos_token_id(2), w.add_unk_token_id(0), w.add_add_bos_token(True)
        w.add_chat_template("{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}")
    else:
        tokens, kinds, merges = byte_pairs()
        w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2"), w.add_token_list(tokens), w.add_token_types(kinds)
        w.add_token_merges(merges), w.add_eos_token_id(len(tokens) - 1), w.add_add_bos_token(False)
    matrix = lambda r, c: (np.clip(np.round(rng.normal(0, 10, (r, c))), -60, 60) / 64).astype(np.float32)
    near_one = lambda n: (1 + np.round(rng.normal(0, 12, n)) / 64).astype(np.float32)
    w.add_tensor("token_embd.weight", matrix(len(tokens), HIDDEN))
    for i in range(LAYERS):
        add = lambda name, t: w.add_tensor(f"blk.{i}.{name}", t)
        add("attn_norm.weight", near_one(HIDDEN))
        add("attn_q.weight", matrix(HEADS * DIM, HIDDEN)), add("attn_k.weight", matrix(KV * DIM, HIDDEN))
        add("attn_v.weight", matrix(KV * DIM, HIDDEN)), add("attn_output.weight", matrix(HIDDEN, HEADS * DIM))
        if arch == "qwen2":
            add("attn_q.bias", near_one(HEADS * DIM) - 1), add("attn_k.bias", near_one(KV * DIM) - 1), add("attn_v.bias", near_one(KV * DIM) - 1)
        if arch == "qwen3":
            add("attn_q_norm.weight", near_one(DIM)), add("attn_k_norm.weight", near_one(DIM))
        add("ffn_norm.weight", near_one(HIDDEN)), add("ffn_gate.weight", matrix(FFN, HIDDEN))
        add("ffn_up.weight", matrix(FFN, HIDDEN)), add("ffn_down.weight", matrix(HIDDEN, FFN))
    w.add_tensor("output_norm.weight", near_one(HIDDEN))
    if not tied:
        w.add_tensor("output.weight", matrix(len(tokens), HIDDEN))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def main():
    out = []
    for arch, tied in (("llama", False), ("qwen2", True), ("qwen3", False)):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, arch + ".gguf")
            write(path, arch, tied)
            with gzip.GzipFile(HERE / f"{arch}.gguf.gz", "wb", mtime=0) as z:
                z.write(pathlib.Path(path).read_bytes())
            m = Llama(path, logits_all=True, n_ctx=CONTEXT, type_k=0, type_v=0, flash_attn=False, n_threads=1, verbose=bool(os.environ.get("VERBOSE")))
            m.eval(TOKENS)
            logits = m.scores[: len(TOKENS)].astype(np.float32)
            texts = [{"text": t, "ids": m.tokenize(t.encode(), add_bos=False, special=False)} for t in TEXTS]
            if arch == "llama":  # the vocabulary's own library agrees
                p = sentence_pieces()[0]
                for t in texts:
                    assert t["ids"] == p.EncodeAsIds(t["text"]), (t, p.EncodeAsIds(t["text"]))
            out.append({"arch": arch, "tokens": TOKENS, "logits": [[float(f"{v:.6g}") for v in row[::7]] for row in logits], "every": 7, "texts": texts})
    (HERE / "architectures.json").write_text("[\n" + ",\n".join(json.dumps(o, ensure_ascii=False) for o in out) + "\n]\n")


main()
