"""Submit a chat to a Pelton fleet over NATS and print the answer as it is written.

    pip install "nats-py[nkeys]" msgpack
    python producer.py nats://127.0.0.1:4222 MODEL PROMPT

For a fleet that asks for credentials, PELTON_CREDS and PELTON_TLS_CA name the files.
"""

import asyncio
import os
import ssl
import sys
import time
import uuid

import msgpack
import nats


def secrets(tenant: str) -> dict:
    if "PELTON_CREDS" not in os.environ:
        return {}
    return {
        "user_credentials": os.environ["PELTON_CREDS"],
        "tls": ssl.create_default_context(cafile=os.environ.get("PELTON_TLS_CA")),
        "inbox_prefix": f"_INBOX_{tenant}".encode(),  # the only one that the credentials may listen on
    }


async def ask(url: str, model: str, prompt: str, tenant: str = "default") -> int:
    nc = await nats.connect(url, **secrets(tenant))
    job = str(uuid.uuid4())  # any id of your own: submitting it again never runs it twice

    # Listen first, so that nothing is missed.
    live = await nc.subscribe(f"live.{tenant}.{job}")

    request = {
        "v": 1,
        "job": job,
        "model": model,
        "kind": "chat",
        "messages": [{"role": "user", "content": prompt}],
        "params": {"max_tokens": 256},
        "submitted": int(time.time() * 1000),
    }
    reply = await nc.request(f"submit.{tenant}", msgpack.packb(request), timeout=10)
    answer = msgpack.unpackb(reply.data)
    if "code" in answer:
        print(f"{answer['code']}: {answer['message']}", file=sys.stderr)
        return 1

    seen = 0  # tokens so far
    while True:
        message = await live.next_msg(timeout=300)
        chunk = msgpack.unpackb(message.data)
        if chunk["index"] > seen:
            raise RuntimeError(f"tokens {seen} to {chunk['index']} were lost: read them from OUT")
        if "claim" not in chunk or "usage" in chunk:  # else it is a claim
            print(chunk.get("text", ""), end="", flush=True)
            seen = chunk["index"] + len(chunk.get("tokens", []))
        if "usage" in chunk:  # the final record
            print()
            print(chunk["finish"], chunk["usage"], chunk.get("message", ""), file=sys.stderr)
            await nc.close()
            return 1 if "code" in chunk else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(asyncio.run(ask(*sys.argv[1:])))
