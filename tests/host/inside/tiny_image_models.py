"""Random weight files of models that work on pictures, in layouts that the host recognises: an upscaler and RIFE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from tiny_models import Shapes, random_weights

UPSCALER, INTERPOLATOR = "tiny_2x.safetensors", "tiny_rife.safetensors"
_CHANNELS, _HEAD = 4, 4


def upscaler_shapes(scale: int) -> Shapes:
    """Of a Real-ESRGAN Compact network: it adds a correction to the nearest pixels."""
    yield from _conv("body.0", 3, _CHANNELS)
    yield "body.1.weight", (_CHANNELS,)
    yield from _conv("body.2", _CHANNELS, _CHANNELS)
    yield "body.3.weight", (_CHANNELS,)
    yield from _conv("body.4", _CHANNELS, 3 * scale**2)


def interpolator_shapes() -> Shapes:
    """Of RIFE 4, five blocks."""
    yield from _conv("encode.cnn0", 3, 16)
    yield from _conv("encode.cnn1", 16, 16)
    yield from _conv("encode.cnn2", 16, 16)
    yield from _turned("encode.cnn3", 16, _HEAD)
    for block in range(5):
        name, given = f"blocks.{block}", 2 * _HEAD + (20 if block else 7)
        yield from _conv(f"{name}.conv0.0.0", given, _CHANNELS)
        yield from _conv(f"{name}.conv0.1.0", _CHANNELS, 2 * _CHANNELS)
        for layer in range(8):
            yield from _conv(f"{name}.convblock.{layer}.conv", 2 * _CHANNELS, 2 * _CHANNELS)
            yield f"{name}.convblock.{layer}.beta", (1, 2 * _CHANNELS, 1, 1)
        yield from _turned(f"{name}.lastconv.0", 2 * _CHANNELS, 4 * 13)


def write_upscaler(path: Path, scale: int = 2) -> Path:
    """Its picture differs from nearest pixels by a few levels."""
    weights = random_weights(upscaler_shapes(scale), seed=5)
    weights["body.4.weight"] *= 0.05
    weights["body.4.bias"] *= 0
    return _saved(path, weights)


def write_interpolator(path: Path) -> Path:
    return _saved(path, random_weights(interpolator_shapes(), seed=6))


def _saved(path: Path, weights: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def _conv(name: str, inside: int, outside: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outside, inside, 3, 3)
    yield f"{name}.bias", (outside,)


def _turned(name: str, inside: int, outside: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (inside, outside, 4, 4)
    yield f"{name}.bias", (outside,)
