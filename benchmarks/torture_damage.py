"""Files that are damaged: bytes of any, values of YAML and JSON; each a function of a generator of random numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path

NUMBERS = ("0", "-1", "1e999", "-.inf", ".nan", "9" * 20, "9" * 5000, "0x", "1:2:3", "1e-400", "1_0", "0b2", "1e50")
VALUES = (
    *NUMBERS,
    *("null", "~", "", "yes", "'", '"', "[", "]", "{", "{a: b}", "[[[[1]]]]", "[1, x]", "*a", "&a [*a]", "!!set {x}"),
    *(
        "2020-99-99",
        "2020-01-01",
        "!!python/name:os.system",
        "!!binary eA==",
        "x" * 3000,
        "é\u202e\x1b[31m",
        "\0",
        "a,b",
    ),
    *("[" * 500, "- " * 500, "auto", "none", "true", "../../etc", "hf:x/y", "cpu", "<<: {a: 1}", "\udce9", "{}", "[]"),
)
EVIL = "<script>alert(1)</script>\u202e\x1b[31m"
"""What no page and no terminal may show as it is."""
BLOCKS = (1, 4, 64, 512)


def damaged_text(rng: random.Random, text: bytes) -> tuple[str, bytes]:
    """A text of YAML with a value, a line or bytes of it changed."""
    lines = text.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0 | 1:
            value = rng.choice(VALUES)
            key, colon, _ = lines[at].partition(b":")
            lines[at] = key + (colon or b":") + b" " + value.encode("utf-8", "surrogateescape")
            return f"value {value[:30]!r} in line {at}", b"\n".join(lines)
        case 2:
            return f"line {at} twice", b"\n".join([*lines[: at + 1], *lines[at:]])
        case 3:
            aliases = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, rng.choice((3, 40))))
            return "aliases", b"a0: &a0 [x, x]\n" + aliases.encode() + text
        case 4:
            return "whole", rng.choice((b"", b"[" * 9000, b"x: " * 9000, b"\xff\xfe", b"3", b"[]", b"\0", text * 400))
    return damaged(rng, text)


def damage(rng: random.Random, file: Path) -> str:
    """Damage a file, in the words of its format where it has some."""
    data = file.read_bytes()
    if file.suffix in (".json", ".jsonl") and data and rng.random() < 0.6:
        what, data = damaged_json(rng, data)
    elif file.suffix == ".yaml" and rng.random() < 0.7:
        what, data = damaged_text(rng, data)
    else:
        what, data = damaged(rng, data)
    file.write_bytes(data)
    return what


def damaged_json(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """A JSON text in which one value is another."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    try:
        whole = json.loads(lines[at] or b"{}")
    except ValueError:
        return damaged(rng, data)
    places = [(whole, key) for key in (whole if isinstance(whole, dict) else range(len(whole)))]
    for holder, key in places:
        inner = holder[key]
        if isinstance(inner, dict | list):
            places += [(inner, name) for name in (inner if isinstance(inner, dict) else range(len(inner)))]
    if not places:
        return damaged(rng, data)
    holder, key = rng.choice(places)
    value = rng.choice(("x", "", None, True, -1, 0, 0.5, 10**60, 1e300, [], {}, [[]], "../../x", EVIL, "\0", 2**63))
    holder[key] = value
    lines[at] = json.dumps(whole).encode()
    return f"{key} is {str(value)[:30]!r}", b"\n".join(lines)


def damaged(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Bytes cut off, flipped, blanked, moved, lost, doubled or grown."""
    if not data:
        return "grown", bytes(600)
    at, to, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice(BLOCKS)
    match rng.randrange(8):
        case 0:
            return f"cut off after {at}", data[:at]
        case 1:
            return f"byte {at} flipped", data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
        case 2:
            return f"{size} zeros at {at}", data[:at] + bytes(size) + data[at + size :]
        case 3:
            return f"{size} ones at {at}", data[:at] + b"\xff" * size + data[at + size :]
        case 4:
            return f"{size} from {to} at {at}", data[:at] + data[to : to + size] + data[at + size :]
        case 5:
            return f"{size} lost at {at}", data[:at] + data[at + size :]
        case 6:
            return f"{size} doubled at {at}", data[: at + size] + data[at:]
    return "grown", data + bytes(600)
