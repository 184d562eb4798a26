"""Check the golden vectors from Python: read each, compare it with its JSON twin, write it anew.

    python check.py VECTORS OUT
"""

import base64
import json
import pathlib
import sys

import msgpack


def readable(value):
    """The value as JSON spells it: byte strings in base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {k: readable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [readable(v) for v in value]
    return value


def main(vectors: str, out: str) -> None:
    count = 0
    for path in sorted(pathlib.Path(vectors).glob("*.msgpack")):
        value = msgpack.unpackb(path.read_bytes())
        twin = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if readable(value) != twin:
            sys.exit(f"{path.name} is {readable(value)}, its JSON twin {twin}")
        (pathlib.Path(out) / path.name).write_bytes(msgpack.packb(value))
        count += 1
    if count == 0:
        sys.exit(f"no vectors in {vectors}")
    print(f"{count} vectors")


if __name__ == "__main__":
    main(*sys.argv[1:])
