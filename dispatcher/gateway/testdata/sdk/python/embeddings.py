"""Checks /v1/embeddings with OpenAI's own Python client: python embeddings.py BASE_URL MODEL"""
import base64
import math
import os
import struct
import sys

import openai

base, model = sys.argv[1].rstrip("/"), sys.argv[2]
client = openai.OpenAI(base_url=base + "/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0, timeout=120)
TEXTS = ["A man is eating food.", "A man is eating a piece of bread.", "Two men pushed carts through the woods."]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def bits(v):
    return struct.pack(f"<{len(v)}f", *v)  # as numbers are the shortest that read back as the same float32


def refused(status, param, **more):
    try:
        client.embeddings.create(**{"model": model, "input": "x", **more})
    except openai.APIStatusError as e:
        assert e.status_code == status and e.param == param, (e.status_code, e.param, e)
        return
    raise AssertionError(f"{more} was not refused")


def main():
    r = client.embeddings.create(model=model, input=TEXTS)  # the client itself asks for base64
    assert r.object == "list" and r.model == model and [d.index for d in r.data] == [0, 1, 2], r
    v = [d.embedding for d in r.data]
    assert all(abs(math.sqrt(dot(x, x)) - 1) < 1e-4 for x in v), "vectors have length 1"
    assert dot(v[0], v[1]) > 0.6 > 0.3 > dot(v[0], v[2]), (dot(v[0], v[1]), dot(v[0], v[2]))
    assert r.usage.prompt_tokens == r.usage.total_tokens > 15, r.usage
    one = client.embeddings.create(model=model, input=TEXTS[0], encoding_format="float").data[0].embedding
    assert bits(one) == bits(v[0]), "alone and beside others, as numbers and as base64: the same vector"
    raw = client.embeddings.with_raw_response.create(model=model, input=TEXTS[0], encoding_format="base64").http_response.json()
    packed = base64.b64decode(raw["data"][0]["embedding"])
    assert packed == bits(one)
    tokens = client.embeddings.create(model=model, input=[101, 7592, 102]).data[0].embedding
    assert tokens == client.embeddings.create(model=model, input="hello").data[0].embedding
    rows = client.embeddings.create(model=model, input=[[101, 7592, 102], [101, 102]]).data
    assert len(rows) == 2 and rows[0].embedding == tokens
    many = client.embeddings.create(model=model, input=["hello"] * 600)
    assert len(many.data) == 600 and many.data[599].embedding == tokens and many.data[599].index == 599
    assert client.embeddings.create(model=model, input="x", dimensions=len(one)).data[0].embedding
    refused(400, "dimensions", dimensions=len(one) - 1)
    refused(400, "input", input=[])
    refused(400, "encoding_format", encoding_format="int8")
    refused(400, "input[0]", input="word " * 1000)
    refused(400, "input[0]", input=[1 << 30])
    assert client.embeddings.create(model=model, input="word " * 1000, extra_body={"truncate": True}).data
    refused(404, "model", model="no-such-model")
    print(f"embeddings of {len(one)} dimensions")


main()
