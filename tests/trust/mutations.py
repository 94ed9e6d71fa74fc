"""Files changed as accidents and attackers change them."""

import copy
import json
import math
import random
import struct
from pathlib import Path
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63),
    2**64, 10**30, 0.5, -0.0, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf, "", "x", "-1",
    "1e9", "../x", "/etc/passwd", "\0", "\ud800", "a" * 5000, [], {}, [[]], [None], [1, 2], [-1],
    [2**40, 2**40], {"a": 1}, {"": {}}, [1.5] * 300, {"kind": "lsh"}, "window", "exact",
)  # fmt: skip
WHOLE: tuple[bytes, ...] = (
    b"", b"\0", b"null", b"7", b"[]", b"{}", b'"a"', b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe",
    b"1" * 5000, bytes(4096), b"\x80\x04N.", b"PK\x03\x04", b"\x1f\x8b", struct.pack("<Q", 2**63),
    struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 100_000) + b"[" * 100_000,
)  # fmt: skip


def mutate_file(path: Path, rng: random.Random) -> None:
    """Damage a file: its bytes, or the meaning of the JSON in it."""
    data = path.read_bytes()
    if rng.random() < 0.07:
        path.write_bytes(rng.choice(WHOLE))
    elif rng.random() < 0.6 and (values := _json(data)) is not None:
        path.write_bytes(_text(mutate_json(values, rng)))
    elif path.suffix == ".safetensors" and rng.random() < 0.8:
        path.write_bytes(_mutate_header(data, rng))
    else:
        path.write_bytes(_mutate_bytes(data, rng))


def mutate_json(values: Any, rng: random.Random) -> Any:
    """One to three places of a JSON value replaced, taken away or added."""
    values = json.loads(json.dumps(values))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(values))
        if not places:
            return _nasty(rng)
        container, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.75:
            container[key] = _nasty(rng)
        elif kind < 0.9:
            del container[key]
        elif isinstance(container, dict):
            container[rng.choice(["colour", "format", "kind", "", "__class__"])] = _nasty(rng)
        else:
            container.append(_nasty(rng))
    return values


def _nasty(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(NASTY))


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Every container and key inside a JSON value."""
    found = []
    if isinstance(values, dict):
        found = [(values, key) for key in values]
    elif isinstance(values, list):
        found = [(values, index) for index in range(len(values))]
    for container, key in list(found):
        found += _places(container[key])
    return found


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _text(values: Any) -> bytes:
    return json.dumps(values).encode()


def _mutate_header(data: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header = _text(mutate_json(json.loads(data[8 : 8 + size]), rng))
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(changed) + 1), rng.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + rng.randint(1, 20)]
        elif kind == 2:
            changed[place:place] = rng.randbytes(rng.randint(1, 20))
        elif kind == 3:
            changed[place : place + 1] = rng.choice([b"9", b"-", b"e", b'"', b"}", b"[", b"0"])
        else:
            del changed[place:]
    return bytes(changed)
