"""Writes families.jsonl and family-*.tokenizer.json.gz: small tokenizers of the kinds that Llama 2, Mistral,
Gemma, Phi 3, GPT-4o, Tekken and DeepSeek have, trained on the texts of prompts.jsonl, and what the
library of the publisher makes of a part of these texts.

    pip install tokenizers==0.23.3
    python families.py
"""
import base64, gzip, json, pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
MARK = "\u2581"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL)
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*""" + TAIL]


def corpus():
    for line in (HERE / "prompts.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        yield row["source"], row["text"] if "text" in row else base64.b64decode(row["base64"]).decode("utf-8", "replace")


def pieces(texts, normalizer, pre, decoder, fuse=True, fallback=True, added=(), size=1300):
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
    if normalizer:
        t.normalizer = normalizer
    # Training on whole texts would merge across words; words are cut here for the training only.
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, limit_alphabet=180))
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if a["id"] < 3]
    j["pre_tokenizer"] = json.loads(pre) if isinstance(pre, str) else None
    t = Tokenizer.from_str(json.dumps(j))
    if pre is not None and not isinstance(pre, str):
        t.pre_tokenizer = pre
    t.decoder = decoder
    for a in added:
        (t.add_special_tokens if a.special else t.add_tokens)([a])
    return t


def levels(texts, splits, normalizer=None):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated", False) for s in splits] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def families(texts):
    legacy = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    blanks = normalizers.Replace(" ", MARK)
    back = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)])
    ends = [AddedToken("<|end|>", special=True, normalized=False, rstrip=True), AddedToken("<think>", special=False, normalized=False)]
    return {
        "llama2": pieces(texts, legacy, None, strip, added=ends),
        "llama2-nofallback": pieces(texts, legacy, None, strip, fallback=False, fuse=True),
        "llama2-nofuse": pieces(texts, legacy, None, strip, fallback=False, fuse=False, size=700),
        "mistral": pieces(texts, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), strip, added=ends),
        "metaspace": pieces(texts, None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True), decoders.Metaspace(prepend_scheme="always"), fallback=False),
        "gemma": pieces(texts, blanks, '{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false}', decoders.Sequence(back),
                        added=[AddedToken("\n\n", special=False, normalized=False), AddedToken(MARK * 2, special=False, normalized=False)]),
        "o200k": levels(texts, [WORD % (ENDING, ENDING, "{1,3}")]),
        "tekken": levels(texts, [WORD % ("", "", "")], normalizers.NFKC()),
        "deepseek": levels(texts, DEEPSEEK),
    }


def main():
    everything = list(corpus())
    kept = everything[::5] + [("made", s) for s in (
        "I'll we'VE IT'S don't", " \n \n  x\r\n\r\n y\t\t", "1234567 ١٢٣٤٥ ⅣⅤ²³", "<think>a</think>  b    c     d", "x<|end|>  next", "e\u0301 \u1e9b\u0323",
        "!!\n\n?? \n#", "   ", "\n", " \u3000\u00a0word", "\u2581\u2581 already marked\u2581", "<s> </s> <0x41> <unk>", "HTTPServer camelCase ÉCOLE ßtraße", "日本語のテキスト漢字 mixed",
        "🙂\U0001F469\u200D\U0001F467", "a/b//c\n/d", "")]
    rows = []
    for name, t in families([text for _, text in everything]).items():
        name = "family-" + name
        with gzip.GzipFile(HERE / f"{name}.tokenizer.json.gz", "wb", mtime=0) as f:
            f.write(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")).encode())
        t.encode_special_tokens = True
        for source, text in kept:
            ids = t.encode(text, add_special_tokens=False).ids
            row = {"tokenizer": name, "source": source, "text": text, "ids": ids}
            decoded = t.decode(ids, skip_special_tokens=True)
            if decoded != text:
                row["decoded"] = decoded
            if len(ids) < 250:
                rows.append(row)
    (HERE / "families.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


main()
