"""Checks answers that are held to a schema with OpenAI's own Python client: python structured.py BASE_URL MODEL"""
import enum
import json
import os
import sys
from typing import Literal, Optional, Union

import openai
import pydantic

base, model = sys.argv[1].rstrip("/"), sys.argv[2]
client = openai.OpenAI(base_url=base + "/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0, timeout=120)


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


class Pet(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    name: str = pydantic.Field(max_length=20)


class Robot(pydantic.BaseModel):
    kind: Literal["robot"]
    serial: str = pydantic.Field(pattern=r"^[A-Z]{2}-\d{4}$")


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)
    height: float = pydantic.Field(gt=0, le=3)
    mood: Mood
    nickname: Optional[str] = pydantic.Field(max_length=20)
    friends: list[Union[Pet, Robot]] = pydantic.Field(min_length=1, max_length=2)


ASK = [{"role": "user", "content": "Tom is 31 years old, 1.8 m tall, in a good mood, and has a cat called Tim. Write it down as JSON."}]


def check_parse():
    for more in ({"temperature": 0}, {"temperature": 2, "seed": 5}, {"temperature": 1, "seed": 7, "presence_penalty": 1}):
        r = client.chat.completions.parse(model=model, messages=ASK, max_tokens=400, response_format=Person, **more)
        assert r.choices[0].finish_reason == "stop" and isinstance(r.choices[0].message.parsed, Person), r


def check_object():
    ask = {"model": model, "messages": ASK, "response_format": {"type": "json_object"}, "temperature": 0, "max_tokens": 200}
    whole = client.chat.completions.create(**ask).choices[0]
    if whole.finish_reason == "stop":
        assert isinstance(json.loads(whole.message.content), dict), whole
    else:
        assert whole.message.content.startswith("{"), whole
    streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True))
    assert streamed == whole.message.content, (streamed, whole)


def check_choices():
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["yes", "no", "maybe"]}}}
    r = client.chat.completions.create(model=model, messages=ASK, n=3, temperature=2, seed=1, logprobs=True, max_tokens=20, response_format=schema)
    for c in r.choices:
        assert json.loads(c.message.content) in ("yes", "no", "maybe") and c.finish_reason == "stop", c


def check_refused():
    bad = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"properties": {"a": {"not": {}}}}}}
    try:
        client.chat.completions.create(model=model, messages=ASK, response_format=bad)
        raise AssertionError("not was taken")
    except openai.BadRequestError as e:
        assert e.code == "invalid_argument" and e.param == "response_format" and "#/properties/a" in e.message, e


check_parse()
check_object()
check_choices()
check_refused()
print("ok: answers held to schemas, openai", openai.__version__, "for Python, model", model)
