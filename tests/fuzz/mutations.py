"""Ways to spoil a file. Each takes a source of chance and the bytes; what does not apply gives the bytes back."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "\x1b[31m", "n" * 5000,
    [], {}, [[]], [[1], [1, 2]],
)  # fmt: skip
ODD_TEXTS = ("NaN", "Infinity", "-Infinity", "9" * 5000, "1e999", "[" * 20_000, '{"a":' * 20_000, '"\\ud800"', "\x00")
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I8", "U8", "BOOL", "U16", "C64", "X9")


def flip_bits(chance: Random, data: bytes) -> bytes:
    """One to eight bits, half of the time near the beginning, where formats have their headers."""
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 8) if data else 0):
        end = min(len(data), 256) if chance.random() < 0.5 else len(data)
        spoiled[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def truncate(chance: Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def splice(chance: Random, data: bytes) -> bytes:
    """A piece of the file again, elsewhere, in place of what was there or beside it."""
    start, at = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    piece = data[start : start + chance.randint(1, 64)]
    return data[:at] + piece + data[at + chance.choice((0, len(piece))) :]


def insert_odd_text(chance: Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(ODD_TEXTS).encode() + data[at:]


def swap_number(chance: Random, data: bytes) -> bytes:
    """Four or eight bytes become an extreme number: sizes and offsets of binary formats."""
    kind = chance.choice(("<I", ">I", "<Q", ">Q"))
    width = struct.calcsize(kind)
    if len(data) < width:
        return data
    at = chance.randrange(min(len(data), 4096) - width + 1)
    number = chance.choice((0, 1, 2**31 - 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1)))
    return data[:at] + struct.pack(kind, number) + data[at + width :]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def edit_json(chance: Random, data: bytes) -> bytes:
    """One value of a document becomes another kind, goes, or is wrapped deep; or text stands in for a number."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return insert_odd_text(chance, data)
    places = _places(document)
    if not places:
        return chance.choice(ODD_TEXTS).encode()
    container, key = chance.choice(places)
    action = chance.random()
    if action < 0.15 and isinstance(container, dict):
        del container[key]
    elif action < 0.3:
        container[key] = "@odd@"
        return json.dumps(document).replace('"@odd@"', chance.choice(ODD_TEXTS)).encode()
    else:
        container[key] = chance.choice(ODD_VALUES)
    return json.dumps(document).encode()


def edit_lines(chance: Random, data: bytes) -> bytes:
    """A line goes, is spoiled as JSON, or comes twice."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    lines[at : at + 1] = chance.choice(([], [edit_json(chance, lines[at])], [lines[at]] * 2))
    return b"\n".join(lines)


def edit_header(chance: Random, data: bytes) -> bytes:
    """The header of a .safetensors file, with the length in front put right: a tensor's dtype, shape, place or name."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        names = [name for name in header if name != "__metadata__"]
        name, other = chance.choice(names), chance.choice(names)
        entry = header[name]
        action = chance.randrange(6)
        if action == 0:
            entry["dtype"] = chance.choice(DTYPES)
        elif action == 1:
            entry["shape"] = chance.choice((entry["shape"][::-1], [1, *entry["shape"]], [0, 2**62], [2**40, 2**40], []))
        elif action == 2:
            header[name], header[other] = header[other], header[name]
        elif action == 3:
            header[chance.choice((*ODD_TEXTS, f"{name}x", "n" * 3000, "a\nb"))] = header.pop(name)
        elif action == 4:
            kind = chance.choice(("F32", "U8", "F8_E4M3"))  # same bytes, other numbers
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            entry.update(dtype=kind, shape=[size // 4 if kind == "F32" else size])
        else:
            texts = header.setdefault("__metadata__", {})
            key = chance.choice(("dummyforcing", "config", "_quantization_metadata", "other"))
            texts[key] = edit_json(chance, texts.get(key, "{}").encode()).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return flip_bits(chance, data)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def edit_archive(chance: Random, data: bytes) -> bytes:
    """One member of a zip (a .pt) is spoiled, the archive itself stays sound."""
    target = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as spoiled:
            pickles = [name for name in source.namelist() if name.endswith("data.pkl")]
            victim = chance.choice(pickles if chance.random() < 0.8 else source.namelist())
            for name in source.namelist():
                part = source.read(name)
                spoiled.writestr(name, chance.choice(BINARY)(chance, part) if name == victim else part)
    except Exception:  # spoiled before: zipfile raises almost anything
        return flip_bits(chance, data)
    return target.getvalue()


Mutation = Callable[[Random, bytes], bytes]
BINARY: tuple[Mutation, ...] = (flip_bits, truncate, splice, swap_number)
SAFETENSORS = (*BINARY, *[edit_header] * 6)
TORCH = (*BINARY, *[edit_archive] * 4)
JSON = (flip_bits, truncate, splice, insert_odd_text, *[edit_json] * 6)
TEXT = (flip_bits, truncate, splice, insert_odd_text, *[edit_lines] * 2)
