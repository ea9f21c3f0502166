"""Arguments that several commands share, and what they mean."""

import argparse
import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..clips.pipeline import Compute, Decoder, Pipeline, Weights, is_demo, load_pipeline
from ..clips.text_features import TextFiles
from ..errors import CheckpointError, DummyForcingError, OutputError, shown
from ..geometry import Span
from ..models.families import DEMO, FAMILIES
from ..models.lora import Lora
from ..models.weight_files import flat_names, read_weights
from ..reading import lines_of, read_text, unreadable
from ..vae.tiny_vae import TinyDecoder
from ..vae.tiny_vae_file import is_tiny_decoder, load_tiny_decoder
from ..vae.wan_vae import WanVAE
from ..vae.wan_vae_file import load_wan_vae
from .clip_arguments import add_clip_arguments
from .finished import NO_FILES
from .names import named
from .numbers import whole
from .signals import check_swallowed
from .terminal import WIPES, warn
from .time_left import LongRun

MARKED_BYTES = 2**24  # of either end of a file
ACCELERATORS = ("cuda", "xpu", "mps")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def add_run_arguments(parser: argparse.ArgumentParser, frames: str = "81") -> None:
    """What every command that samples takes; `frames` is what the help says of a clip without --frames."""
    parser.add_argument("--model", default="demo", help='"demo" or a checkpoint file (default: demo)')
    parser.add_argument("--family", help=f"how the checkpoint was trained: {', '.join(FAMILIES)}")
    parser.add_argument("--lora", type=named, metavar="FILE", help="adapter to merge into the checkpoint (LongLive)")
    parser.add_argument("--lora-strength", type=finite, help="its weight (default: 1)")
    parser.add_argument("--vae", type=named, metavar="FILE", help="Wan2.1 VAE or tiny decoder for a checkpoint")
    parser.add_argument("--vae-tile", type=tile, metavar="RxC", help="decode in tiles of so many latent rows x columns")
    parser.add_argument(
        "--text-encoder",
        type=named,
        metavar="PATH",
        help="umt5-xxl that reads a checkpoint's prompts: file or folder",
    )
    parser.add_argument("--tokenizer", type=named, metavar="PATH", help="its tokenizer, if that lies elsewhere")
    parser.add_argument("--text-embedding", type=named, metavar="FILE", help="saved text features, instead of both")
    add_clip_arguments(parser, frames)
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)")
    parser.add_argument(
        "--offload",
        type=whole,
        nargs="?",
        const=0,
        metavar="N",
        help="keep the weights of all blocks but the first N (default: 0) in main memory; for Krea's 14B",
    )
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)} (default: bf16 on a GPU, fp32 on the CPU)")
    parser.add_argument("--attention", default="auto", help="attention backend; `doctor` lists them (default: auto)")


def tile(text: str) -> tuple[int, int]:
    """ "RxC" as latent rows and columns of a tile."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if not match or min(int(match[1]), int(match[2])) < 4:
        raise argparse.ArgumentTypeError(
            f"expected ROWSxCOLUMNS in latents, got '{shown(text)}'; write e.g. 32x32, from 4x4 up"
        )
    return int(match[1]), int(match[2])


def finite(text: str) -> float:
    """A number that is neither NaN nor infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got '{shown(text)}'; write e.g. 0.8")
    return number


def _available(kind: str) -> bool:
    module = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    return module is not None and module.is_available()


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes the first accelerator there is."""
    if name == "auto":
        return next((torch.device(kind) for kind in ACCELERATORS if _available(kind)), torch.device("cpu"))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise DummyForcingError(
            f"device '{shown(name)}' cannot be used: {shown(reason, 200)}; try --device auto"
        ) from error
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype called `name`, or what suits the device."""
    if name is None:
        return torch.bfloat16 if device.type in ("cuda", "xpu") else torch.float32
    return named_dtype(name)


def named_dtype(name: str) -> torch.dtype:
    """The dtype called `name`; unknown names list the known ones."""
    if name not in DTYPES:
        raise DummyForcingError(f"unknown dtype '{shown(name)}'; known dtypes: {', '.join(DTYPES)}")
    return DTYPES[name]


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one per line; blank lines and lines that start with # do not count."""
    lines = [line.strip() for line in lines_of(read_text(path, "prompts in", OutputError))]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise OutputError(f"{path} holds no prompt; write one per line")
    return prompts


def load(args: argparse.Namespace, prompts: Sequence[str] = ()) -> Pipeline:
    """The model that the run arguments name, on their device; a text encoder reads all `prompts` before it."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    if is_demo(args.model):
        _one_thread(device)
    if args.lora_strength is not None and not args.lora:
        raise DummyForcingError("--lora-strength has no effect here: --lora is not given; leave it out")
    if args.offload is not None and is_demo(args.model):
        raise DummyForcingError("--offload has no effect on the demo model; leave it out")
    if args.tokenizer and not args.text_encoder:
        raise DummyForcingError("--tokenizer has no effect here: --text-encoder is not given; leave it out")
    if args.vae_tile and not args.vae:
        raise DummyForcingError("--vae-tile has no effect here: --vae is not given; leave it out")
    _check_texts(args, prompts)
    text = TextFiles(args.text_embedding, args.text_encoder, args.tokenizer, prompts)
    lora = Lora.read(args.lora, lora_strength(args)) if args.lora else None
    vae = load_vae(args.vae, device, dtype) if args.vae else None
    return load_pipeline(
        Weights(args.model, args.family, lora),
        Compute(device, dtype, args.attention, args.offload),
        text,
        Decoder(vae, args.vae_tile),
        warn,
    )


def lora_strength(args: argparse.Namespace) -> float:
    """The weight of --lora."""
    return 1.0 if args.lora_strength is None else args.lora_strength


def files_of(args: argparse.Namespace) -> dict[str, str]:
    """The files given beside the model, and an adapter's weight, as a report has them: names and marks, no paths."""
    given = {name: getattr(args, name.replace(" ", "_"), None) for name in NO_FILES}
    names = {name: f"{path.name}{mark(path)}" for name, path in given.items() if path is not None}
    return names | ({"lora": f"{names['lora']} x {lora_strength(args):g}"} if args.lora else {})


def mark(path: Path) -> str:
    """ " (1a2b3c4d)", which tells files of one name apart by their size and both ends; "" for what is no file."""
    if unreadable(path):  # a folder, or what its reader refuses
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(size - MARKED_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(MARKED_BYTES))
    return f" ({digest.hexdigest()[:8]})"


def _check_texts(args: argparse.Namespace, prompts: Sequence[str]) -> None:
    """DummyForcingError for prompts that no file could hold, and for several where one text was saved."""
    for prompt in prompts:
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DummyForcingError(
                f"the prompt '{shown(prompt)}' is no Unicode text (character {error.start} is half of one); "
                "write it anew"
            ) from error
    texts = len(set(prompts))
    if args.text_embedding is not None and texts > 1:
        raise DummyForcingError(
            f"expected one prompt for --text-embedding, which is one text, got {texts}; use --text-encoder, or one "
            "prompt"
        )


def load_vae(path: Path, device: torch.device, dtype: torch.dtype) -> WanVAE | TinyDecoder:
    """The VAE in a file, or the tiny decoder."""
    load_file = load_tiny_decoder if holds_tiny_decoder(path) else load_wan_vae
    return load_file(path, device, dtype)


def holds_tiny_decoder(path: Path) -> bool:
    """Whether the file is a tiny decoder, which cannot encode."""
    try:
        return is_tiny_decoder(flat_names(read_weights(path)[0]))
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path, 200)}: {error}") from error


def load_demo(device: torch.device) -> Pipeline:
    """The bundled model in float32."""
    _one_thread(device)
    return load_pipeline(Weights(DEMO), Compute(device), warn=warn)


def _one_thread(device: torch.device) -> None:
    """The demo's tensors are so small that threads wait for each other longer than they work."""
    if device.type == "cpu":
        torch.set_num_threads(1)


class Progress:
    """A bar over model calls with the time left, on stderr; `what` is what takes so long, where it does."""

    def __init__(self, chunks: int, calls: int, label: str, what: str = "this clip takes"):
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise DummyForcingError("the progress bar needs tqdm, which is not installed: pip install tqdm") from error

        # Nothing is drawn for a run that is over in a moment.
        self._bar = tqdm(total=calls, desc=shown(label), unit="call", mininterval=0.5, delay=0.5, leave=False)
        self._chunks = chunks
        self._drawn = False
        self._long = LongRun(calls, warn, what)

    @property
    def on_step(self) -> Callable[[Span, int], None]:
        """For rollout: called before each model call."""
        return self._step

    def _step(self, span: Span, step: int) -> None:
        check_swallowed()
        with contextlib.suppress(OSError):  # a bar that cannot be drawn costs no clip
            self._bar.set_postfix_str(f"chunk {span.chunk + 1} of {self._chunks}", refresh=False)
            self._drawn |= bool(self._bar.update())
        self._long.call(span.chunk)

    def _wipe(self) -> None:
        if self._drawn:
            with contextlib.suppress(OSError):
                self._bar.clear()

    def __enter__(self) -> "Progress":
        WIPES.append(self._wipe)
        return self

    def __exit__(self, *error: object) -> None:
        WIPES.remove(self._wipe)
        with contextlib.suppress(OSError):
            self._bar.close()
