"""`doctor`: what this machine offers, and which attention backend serves each device and why."""

import argparse
import importlib
import os
import platform
from collections.abc import Callable, Iterator

import torch

from .. import __version__
from ..kv.attention import BACKENDS, choose
from .terminal import tell

PACKAGES = ("torch", "numpy", "einops", "safetensors", "av", "PIL", "tqdm")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
HEAD_DIM = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `doctor` takes."""
    parser.description = (
        "Prints versions, devices and, for each device, which attention backends can be used and why "
        "the others cannot. Changes nothing."
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report to stdout; always 0."""
    tell(f"dummyforcing {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        tell(f"  {package:<12} {version(package)}")
    for device, title in devices():
        tell(f"\n{device}: {title}")
        for line in backend_lines(device):
            tell(f"  {line}")
    return 0


def version(package: str) -> str:
    """The version of an importable package, or why it cannot be imported."""
    try:
        return str(getattr(importlib.import_module(package), "__version__", "installed"))
    except Exception as error:  # a broken install raises more than ImportError, and the report must go on
        return f"not usable ({type(error).__name__}: {error})"


def _cpu() -> Iterator[tuple[torch.device, str]]:
    yield torch.device("cpu"), f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"


def _cuda() -> Iterator[tuple[torch.device, str]]:
    if not torch.cuda.is_available():
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = f"{card.total_memory / 2**30:.1f} GiB, compute capability {card.major}.{card.minor}"
        yield torch.device("cuda", index), f"{card.name}, {memory}"


def _mps() -> Iterator[tuple[torch.device, str]]:
    if torch.backends.mps.is_available():
        yield torch.device("mps"), "Apple GPU, memory shared with the CPU"


def _xpu() -> Iterator[tuple[torch.device, str]]:
    if not hasattr(torch, "xpu") or not torch.xpu.is_available():
        return
    for index in range(torch.xpu.device_count()):
        card = torch.xpu.get_device_properties(index)
        yield torch.device("xpu", index), f"{card.name}, {card.total_memory / 2**30:.1f} GiB"


PROBES: tuple[Callable[[], Iterator[tuple[torch.device, str]]], ...] = (_cpu, _cuda, _mps, _xpu)


def devices() -> list[tuple[torch.device, str]]:
    """Every usable device and a line about it."""
    return [found for probe in PROBES for found in probe()]


def backend_lines(device: torch.device) -> list[str]:
    """One line per dtype and backend: chosen, usable, or the reason why not."""
    lines = []
    for label, dtype in DTYPES.items():
        chosen = choose("auto", device, dtype, HEAD_DIM).name
        for name, backend in BACKENDS.items():
            reason = backend.why_not(device, dtype, HEAD_DIM)
            verdict = f"no: {reason}" if reason else "usable, chosen" if name == chosen else "usable"
            lines.append(f"{label} {name:<10} {verdict}  ({backend.title})")
    return lines
