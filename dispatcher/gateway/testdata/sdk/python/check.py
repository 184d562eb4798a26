"""Checks a Pelton gateway with OpenAI's own Python client: python check.py BASE_URL MODEL

BASE_URL is http://HOST:PORT, OPENAI_API_KEY the key of a door that asks for one; any model will do, only shapes and rules are checked, no words.
"""
import os
import sys
import time

import openai

base, model = sys.argv[1].rstrip("/"), sys.argv[2]
client = openai.OpenAI(base_url=base + "/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0, timeout=120)
ASK = [{"role": "user", "content": "Count from one to twenty, separated by commas."}]


def chat(**more):
    return client.chat.completions.create(**{"model": model, "messages": ASK, "max_tokens": 12, "seed": 7, **more})


def text(**more):
    return client.completions.create(**{"model": model, "prompt": "One, two, three,", "max_tokens": 12, "seed": 7, **more})


def refused(kind, status, code, param, call):
    try:
        call()
    except kind as e:
        assert e.status_code == status, e
        assert e.code == code and e.param == param and e.type, (e.code, e.param, e.type)
        assert isinstance(e.body, dict) and e.body["message"], e.body
        assert e.request_id, "no x-request-id"
        return e
    raise AssertionError(f"{code} was not refused")


def check_models():
    names = [m.id for m in client.models.list()]
    assert model in names, names
    one = client.models.retrieve(model)
    assert one.id == model and one.object == "model" and one.owned_by and one.created > 0, one
    return one


def check_whole():
    r = chat()
    assert r.object == "chat.completion" and r.id.startswith("chatcmpl-") and r.model == model and r.system_fingerprint, r
    assert len(r.choices) == 1 and r.choices[0].message.role == "assistant" and isinstance(r.choices[0].message.content, str), r
    assert r.choices[0].finish_reason in ("stop", "length") and r.choices[0].logprobs is None, r
    u = r.usage
    assert u.prompt_tokens > 0 and 0 < u.completion_tokens <= 12 and u.total_tokens == u.prompt_tokens + u.completion_tokens, u
    t = text()
    assert t.object == "text_completion" and t.choices[0].text and t.usage.total_tokens > 0, t


def check_stream():
    whole = chat(temperature=0)
    chunks = list(chat(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert all(c.object == "chat.completion.chunk" and c.id == chunks[0].id for c in chunks)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, (chunks[-1], whole.usage)
    assert all(c.usage is None for c in chunks[:-1])
    deltas = [c.choices[0] for c in chunks[:-1]]
    assert deltas[0].delta.role == "assistant" and all(d.delta.role is None for d in deltas[1:]), deltas
    assert "".join(d.delta.content or "" for d in deltas) == whole.choices[0].message.content
    assert [d.finish_reason for d in deltas if d.finish_reason] == [whole.choices[0].finish_reason]
    plain = list(chat(stream=True))
    assert all(c.usage is None and len(c.choices) == 1 for c in plain)
    pieces = list(text(temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in pieces) == text(temperature=0).choices[0].text


def check_parameters():
    assert chat(temperature=0.9).choices[0].message.content == chat(temperature=0.9).choices[0].message.content, "a seed must repeat"
    for stop in (",", [",", "\n"]):
        c = chat(stop=stop, max_tokens=40).choices[0]
        assert all(s not in c.message.content for s in stop) and c.finish_reason in ("stop", "length"), c
    r = chat(n=2, temperature=1.0)
    assert [c.index for c in r.choices] == [0, 1] and r.usage.completion_tokens > 1, r
    streamed = {}
    for chunk in chat(n=2, temperature=1.0, stream=True):
        for c in chunk.choices:
            streamed[c.index] = streamed.get(c.index, "") + (c.delta.content or "")
    assert streamed == {c.index: c.message.content for c in r.choices}, (streamed, r)
    prompts = text(prompt=["One, two,", "A, B, C,"], n=2)
    assert [c.index for c in prompts.choices] == [0, 1, 2, 3], prompts
    assert text(prompt=[[100, 101, 102], [103, 104]]).usage.prompt_tokens == 5
    assert text(echo=True).choices[0].text.startswith("One, two, three,")
    assert chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.completion_tokens <= 3
    assert chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], tools=[], tool_choice="none", user="u",
                metadata={"k": "v"}, store=False, service_tier="flex", logit_bias={"5": -100}).service_tier == "flex"
    assert chat(extra_body={"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True}).usage.completion_tokens == 12


def check_logprobs():
    def good(content, count):
        assert len(content) == count, (len(content), count)
        for t in content:
            assert t.logprob <= 0 and isinstance(t.token, str) and t.bytes and len(t.top_logprobs) == 3, t
            assert all(r.logprob <= 0 and r.bytes is not None for r in t.top_logprobs)

    r = chat(logprobs=True, top_logprobs=3)
    good(r.choices[0].logprobs.content, r.usage.completion_tokens)
    parts = [c.choices[0].logprobs.content for c in chat(logprobs=True, top_logprobs=3, stream=True) if c.choices[0].logprobs]
    good(sum(parts, []), r.usage.completion_tokens)
    lp = text(logprobs=2).choices[0].logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) > 0, lp
    assert lp.text_offset == sorted(lp.text_offset) and all(2 <= len(t) <= 3 for t in lp.top_logprobs), lp


def check_errors(context):
    e = refused(openai.NotFoundError, 404, "model_not_found", None, lambda: named(lambda: chat(model="no-such-model")))
    assert e.response.headers["x-should-retry"] == "false"
    refused(openai.BadRequestError, 400, "invalid_argument", "temperature", lambda: chat(temperature=5))
    refused(openai.BadRequestError, 400, "invalid_argument", "max_tokens", lambda: chat(max_tokens=-1))
    refused(openai.BadRequestError, 400, "invalid_argument", "messages", lambda: chat(messages=[]))
    refused(openai.BadRequestError, 400, "unimplemented", "tools", lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}]))
    refused(openai.BadRequestError, 400, "unimplemented", "response_format", lambda: chat(response_format={"type": "xml"}))
    refused(openai.APIStatusError, 413, "payload_too_large", None, lambda: chat(messages=[{"role": "user", "content": "x" * (5 << 20)}]))
    try:
        chat(messages=[{"role": "user", "content": "word " * (context + 10)}])
        raise AssertionError("a prompt beyond the context length was taken")
    except openai.BadRequestError as e:
        assert e.code == "context_length_exceeded", e


def named(call):
    """Lets the parameter of a refusal be null or "model"."""
    try:
        return call()
    except openai.APIStatusError as e:
        assert e.param in (None, "model"), e.param
        e.param = None
        raise


def check_cancel():
    """Closing a stream cancels its job."""
    stream = chat(stream=True, max_tokens=1000, extra_body={"ignore_eos": True})
    job = stream.response.headers["x-pelton-job"]
    next(iter(stream))
    stream.close()
    state, until = "", time.monotonic() + 60
    while state != "canceled" and time.monotonic() < until:
        state = client.get("/jobs/" + job, cast_to=object)["state"]
        assert state in ("queued", "running", "canceled"), state
    assert state == "canceled", state


one = check_models()
check_whole()
check_stream()
check_parameters()
check_logprobs()
check_errors(one.max_model_len)
check_cancel()
print("ok: openai", openai.__version__, "for Python, model", model)
