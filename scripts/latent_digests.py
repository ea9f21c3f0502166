"""Digests of the latents that many `generate` commands make: what a refactoring must leave as it is, bit by bit.

    python scripts/latent_digests.py > /tmp/before.jsonl            # before the first change
    python scripts/latent_digests.py --against /tmp/before.jsonl    # after every step: names what came out otherwise

A tool for whoever moves or rewrites parts of the core. It runs the package that lies in the current folder, also that
of another checkout, and knows nothing of the core but its command line, the tensor names of public checkpoints and
the file format of a head profile, so modules may move. The models are the bundled one and tiny random ones made here;
packages as for the tests. About a minute on one core.

Prints one JSON line per command: name, sha256 of the latents' dtype, shape and bytes, and shape; or name and error.
Exit status: 0; 1 if a command failed or a digest is not the earlier one; 2 for bad input. Digests hold for one machine
and one version of torch: record both sides on the same. Every command names its policy, except those called
"-default", which are there to show that a default has changed.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
CommandLine = Callable[[list[str]], int]

INTERRUPTED = 130  # what the command line returns

DIM, FFN_DIM, LAYERS, TEXT_DIM, FREQ_DIM, CHANNELS = 256, 64, 3, 32, 16, 16  # 2 heads of 128 in each layer
VAE_DIM, VAE_MULT, VAE_TIME = 8, (1, 2, 4, 4), (False, True, True)
UMT5_HEADS, UMT5_HEAD_DIM, UMT5_FFN_DIM, UMT5_LAYERS, UMT5_BUCKETS = 2, 24, 56, 2, 32

PROMPT = "a red circle on the left and a blue square on the right"
OTHER = "a green triangle moving slowly and a yellow circle"
THIRD = "the red circle moving up and down"
WORDS = sorted({*PROMPT.split(), *OTHER.split(), *THIRD.split()})

SWITCH = "--schedule switch.txt"
START = "--start-latents start.safetensors"
IMAGE = "--start-image start.png"
VAE = "--vae vae.safetensors"
OPTIONS = "--dummy-ratio 0.25 --local-chunks 2 --packed-frames 2 --sink 2 --observe-chunk 2"
COUNTED = "--num-dummy 4 --packed-frames 0 --reclassify 2 --score-stride 3"

# Names begin with the family: "demo" is the bundled model, every other one the same tiny checkpoint. Each of these is
# a `profile` command, and writes a file that runs below take.
PROFILES = ("demo-profile", "self_forcing-profile")

# name -> options of `generate`; 81 frames (21 latents) of 64x64 unless they say otherwise.
RUNS = {
    "demo-full": "--policy full",
    "demo-full-switch": f"--policy full {SWITCH}",
    "demo-full-start-image": f"--policy full {IMAGE}",
    "demo-full-teacache": "--policy full --teacache 0.4 --teacache-signal e --teacache-coefficients 0.5,0.1",
    "demo-window": "--policy window",
    "demo-window-options": "--policy window --window 6 --sink 1",
    "demo-window-odd-size": "--policy window --size 80x48 --frames 69",  # 15 tokens per frame
    "demo-window-short-last": "--policy window --frames 77",  # 20 latents: the last chunk has 2
    "demo-window-reference": "--policy window --attention reference",
    "demo-window-blend": f"--policy window {SWITCH} --blend-chunks 2",
    "demo-window-start-latents": f"--policy window {START}",
    "demo-dummy": "--policy dummy",
    "demo-dummy-options": f"--policy dummy {OPTIONS}",
    "demo-dummy-counted": f"--policy dummy {COUNTED}",
    "demo-dummy-profile": "--policy dummy --profile demo-profile.json",
    "demo-dummy-short-last": "--policy dummy --frames 77",
    "demo-dummy-bf16": "--policy dummy --dtype bf16",
    "demo-dummy-skip-steps": "--policy dummy --skip-steps 2",
    "demo-dummy-start-image": f"--policy dummy {IMAGE}",
    "demo-dummy-start-latents": f"--policy dummy {START}",
    "demo-dummy-switch": f"--policy dummy {SWITCH}",
    "self_forcing-default": "",
    "self_forcing-full": "--policy full",
    "self_forcing-full-long": "--policy full --frames 129",  # 33 latents, past the trained length
    "self_forcing-full-bf16": "--policy full --dtype bf16",
    "self_forcing-full-lora": "--policy full --lora lora.pt --lora-strength 0.5",
    "self_forcing-full-teacache": "--policy full --teacache 1000",  # skips steps 1 and 3
    "self_forcing-full-start-image": f"--policy full {IMAGE} {VAE}",
    "self_forcing-window": "--policy window --window 9 --sink 0",
    "self_forcing-window-switch": f"--policy window {SWITCH}",
    "self_forcing-dummy": "--policy dummy",
    "self_forcing-dummy-options": f"--policy dummy {OPTIONS}",
    "self_forcing-dummy-profile": "--policy dummy --profile self_forcing-profile.json",
    "self_forcing-dummy-start-latents": f"--policy dummy {START}",
    "longlive-default": "--frames 129",
    "longlive-full": "--policy full",
    "longlive-full-switch": f"--policy full {SWITCH}",
    "longlive-window": "--policy window --frames 129",
    "longlive-window-lora": "--policy window --lora lora.pt",
    "longlive-window-switch": f"--policy window {SWITCH} --frames 129",
    "longlive-window-blend": f"--policy window {SWITCH} --blend-chunks 2",
    "longlive-window-start-latents": f"--policy window {SWITCH} {START}",
    "longlive-dummy": "--policy dummy --frames 129",
    "longlive-dummy-switch": f"--policy dummy {SWITCH} --frames 129",
    "longlive-dummy-switch-counted": f"--policy dummy {COUNTED} {SWITCH}",
    "causal_forcing-full": "--policy full",
    "causal_forcing-dummy": "--policy dummy --local-chunks 2",
    "causal_forcing_framewise-full": "--policy full",
    "causal_forcing_framewise-dummy": "--policy dummy --local-chunks 3 --sink 2",
    "causal_forcing_2step-full": "--policy full",
    "causal_forcing_2step-window-skip-steps": "--policy window --skip-steps 1",
    "causal_forcing_2step-dummy-start-latents": f"--policy dummy {START}",
    "causal_forcing_1step-full": "--policy full",
    "causal_forcing_1step-dummy": "--policy dummy",
    "causvid-full": "--policy full --frames 177",  # clips of 21, 18 and 6 new latents
    "causvid-full-vae": f"--policy full --frames 177 {VAE}",
    "causvid-full-start-latents": f"--policy full --frames 129 {START}",
    "causvid-window-switch": f"--policy window {SWITCH} --frames 129",
    "causvid-dummy": "--policy dummy --frames 177",
    "causvid-dummy-vae": f"--policy dummy --frames 129 {VAE} --skip-steps 1",
    "krea_realtime-default": "",
    "krea_realtime-full": "--policy full",
    "krea_realtime-full-vae": f"--policy full {VAE}",
    "krea_realtime-full-vae-tiles": f"--policy full {VAE} --vae-tile 6x6",
    "krea_realtime-full-switch": f"--policy full {SWITCH} --skip-steps 2",
    "krea_realtime-window": "--policy window --window 5 --sink 1",
    "krea_realtime-dummy": "--policy dummy",
    "krea_realtime-dummy-vae": f"--policy dummy {VAE} {IMAGE}",
    "krea_realtime-dummy-profile": "--policy dummy --profile self_forcing-profile.json",
    "rolling_forcing-full": "--policy full",
    "rolling_forcing-window": "--policy window --frames 141",  # 36 latents, past the window of 21
    "rolling_forcing-window-switch": f"--policy window {SWITCH}",
    "rolling_forcing-dummy": "--policy dummy --frames 141",
    "rolling_forcing-dummy-options": f"--policy dummy {OPTIONS}",
    "causal_forcing_long-window": "--policy window --frames 141",
    "causal_forcing_long-dummy-switch": f"--policy dummy {SWITCH}",
}


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier output; say which lines differ")
    args = parser.parse_args(words)
    try:
        before = read_lines(args.against) if args.against else None
        run = command_line(Path.cwd())
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # sums over threads are taken in another order
    lines = {}
    with tempfile.TemporaryDirectory() as name, working_in(Path(name)):
        make_files()
        for line in digests(run):
            print(json.dumps(line), flush=True)
            lines[line["name"]] = line
    failed = [f"{name}: failed, {line['error']}" for name, line in lines.items() if "error" in line]
    complaints = failed + (differences(before, lines) if before is not None else [])
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if before is not None and not complaints:
        print(f"all {len(lines)} as in {args.against}", file=sys.stderr)
    return int(bool(complaints))


def read_lines(path: Path) -> dict[str, Any]:
    """An earlier output by name."""
    try:
        return {line["name"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no output of this script ({error})") from error


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line per name that is not in both outputs with the same digest."""
    changed = [f"{name}: differs" for name, line in now.items() if name in before and line != before[name]]
    gone = [f"{name}: only in the earlier output" for name in before if name not in now]
    return changed + gone + [f"{name}: not in the earlier output" for name in now if name not in before]


# ---- the commands


def command_line(root: Path) -> CommandLine:
    """`main` of the package in `root`; ImportError where another one is installed and would answer for it."""
    sys.path.insert(0, str(root))
    found = importlib.util.find_spec("dummyforcing_core")
    if found is None or not Path(found.origin or "").resolve().is_relative_to(root.resolve()):
        raise ImportError(f"{root} holds no dummyforcing_core; run this in a checkout's root folder")
    run: CommandLine = importlib.import_module("dummyforcing_core.__main__").main
    return run


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Commands name their files without folders: nothing in a report or a name depends on where they lie."""
    back = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(back)  # before the folder goes: Windows keeps one that somebody is in


def digests(run: CommandLine) -> Iterator[dict[str, Any]]:
    """One line per command, in the tables' order: runs take profiles."""
    for name in PROFILES:
        words = ["profile", *model(name), *text(name, several=True), "--prompts", "prompts.txt", "--frames", "45"]
        yield outcome(run, name, [*words, "--out", f"{name}.json"], read_scores)
    for name, options in RUNS.items():
        switches = SWITCH in options
        words = ["generate", *model(name), *text(name, switches), *([] if switches else ["--prompt", PROMPT])]
        files = ["--out", f"{name}.mp4", "--save-latents", f"{name}.safetensors"]
        yield outcome(run, name, [*words, *options.split(), *files], read_latents)


def model(name: str) -> list[str]:
    """The model that a name begins with."""
    family = name.split("-")[0]
    return ["--model", "demo"] if family == "demo" else ["--model", "tiny.pt", "--family", family, "--size", "64x64"]


def text(name: str, several: bool) -> list[str]:
    """Where the text comes from: the demo reads prompts itself, several need an encoder, one can be saved features."""
    if name.startswith("demo-"):
        return []
    return ["--text-encoder", "umt5.safetensors"] if several else ["--text-embedding", "text.safetensors"]


def outcome(run: CommandLine, name: str, words: list[str], read: Callable[[str], Tensor]) -> dict[str, Any]:
    """The command's line. Whatever goes wrong is reported there, so that the others still run."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = run([*words, "--device", "cpu"])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise SystemExit(code)
        tensor = read(name)
    except SystemExit:  # argparse leaves this way
        return {"name": name, "error": (said.getvalue().strip().splitlines() or ["no reason given"])[-1]}
    except Exception as error:
        return {"name": name, "error": f"{type(error).__name__}: {error}"}
    return {"name": name, "sha256": digest(tensor), "shape": list(tensor.shape)}


def read_latents(name: str) -> Tensor:
    """What a `generate` command saved."""
    return load_file(f"{name}.safetensors")["latent"]


def read_scores(name: str) -> Tensor:
    """Of a saved head profile: (layers, heads, regions)."""
    return torch.tensor(json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))["scores"])


def digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    header = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    return hashlib.sha256(header + tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


# ---- the files they take


def make_files() -> None:
    """All inputs, into the current folder."""
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in values(wan(), 0).items()}}, "tiny.pt")
    torch.save({"generator_lora": values(lora(), 1)}, "lora.pt")
    save_file(values(wan_vae(), 2), "vae.safetensors")
    save_file(values(umt5(), 3), "umt5.safetensors")
    Path("tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")  # beside the encoder: found there
    save_file({"embedding": noise((7, TEXT_DIM), 4)}, "text.safetensors")
    save_file({"latent": noise((1, CHANNELS, 6, 8, 8), 5)}, "start.safetensors")
    picture = Image.linear_gradient("L").resize((96, 64))
    Image.merge("RGB", (picture, picture.rotate(180), picture.point(lambda grey: grey // 2))).save("start.png")
    Path("prompts.txt").write_text(f"{PROMPT}\n{OTHER}\n", encoding="utf-8")
    Path("switch.txt").write_text(f"0:00 | {PROMPT}\n0:01.5 | {OTHER}\n0:03.5 | {THIRD}\n", encoding="utf-8")


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal noise of its own seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def values(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Random weights that keep the size of what goes through them; modulations are large, so that attention counts."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=generator)
        leaf, fan_in = name.rpartition(".")[2], math.prod(shape[1:])
        if leaf == "modulation":
            tensors[name] = x / 2
        elif leaf == "bias":
            tensors[name] = x / 8
        else:
            tensors[name] = 1 + x / 8 if fan_in == 1 else x / fan_in**0.5  # of a norm, or of a layer
    return tensors


def layer(name: str, out: int, *inner: int) -> Shapes:
    """Weight and bias: of a Linear with its inputs, a convolution with its kernel too, a norm with nothing."""
    return {f"{name}.weight": (out, *inner), f"{name}.bias": (out,)}


def linears() -> Shapes:
    """The Linears in Wan2.1's blocks."""
    shapes: Shapes = {}
    for i in range(LAYERS):
        for part in (f"{attention}.{side}" for attention in ("self_attn", "cross_attn") for side in "qkvo"):
            shapes |= layer(f"blocks.{i}.{part}", DIM, DIM)
        shapes |= layer(f"blocks.{i}.ffn.0", FFN_DIM, DIM) | layer(f"blocks.{i}.ffn.2", DIM, FFN_DIM)
    return shapes


def wan() -> Shapes:
    """A Wan2.1 transformer."""
    shapes = layer("patch_embedding", DIM, CHANNELS, 1, 2, 2) | layer("head.head", 4 * CHANNELS, DIM) | linears()
    shapes |= layer("text_embedding.0", DIM, TEXT_DIM) | layer("text_embedding.2", DIM, DIM)
    shapes |= layer("time_embedding.0", DIM, FREQ_DIM) | layer("time_embedding.2", DIM, DIM)
    shapes |= layer("time_projection.1", 6 * DIM, DIM) | {"head.modulation": (1, 2, DIM)}
    for i in range(LAYERS):
        shapes |= layer(f"blocks.{i}.norm3", DIM) | {f"blocks.{i}.modulation": (1, 6, DIM)}
        for norm in (f"{attention}.norm_{side}" for attention in ("self_attn", "cross_attn") for side in "qk"):
            shapes[f"blocks.{i}.{norm}.weight"] = (DIM,)
    return shapes


def lora(rank: int = 4) -> Shapes:
    """An adapter of all Linears in PEFT's names."""
    shapes: Shapes = {}
    for name, (out, *inner) in linears().items():
        if inner:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            shapes |= {f"{module}.lora_A.weight": (rank, *inner), f"{module}.lora_B.weight": (out, rank)}
    return shapes


def wan_vae() -> Shapes:
    """A Wan2.1 VAE: families that begin anew encode a decoded frame, and the others' start images are encoded."""
    deepest = VAE_DIM * VAE_MULT[-1]
    shapes = layer("conv1", 2 * CHANNELS, 2 * CHANNELS, 1, 1, 1) | layer("conv2", CHANNELS, CHANNELS, 1, 1, 1)
    shapes |= layer("encoder.conv1", VAE_DIM, 3, 3, 3, 3) | layer("decoder.conv1", deepest, CHANNELS, 3, 3, 3)
    shapes |= vae_levels("encoder.downsamples", VAE_DIM, VAE_MULT, VAE_TIME, 2)
    shapes |= vae_levels("decoder.upsamples", deepest, VAE_MULT[::-1], VAE_TIME[::-1], 3)
    for part, width, out in (("encoder", deepest, 2 * CHANNELS), ("decoder", VAE_DIM, 3)):
        middle = f"{part}.middle"
        shapes |= residual(f"{middle}.0", deepest, deepest) | residual(f"{middle}.2", deepest, deepest)
        shapes |= layer(f"{middle}.1.to_qkv", 3 * deepest, deepest, 1, 1)
        shapes |= layer(f"{middle}.1.proj", deepest, deepest, 1, 1)
        shapes[f"{middle}.1.norm.gamma"] = (deepest, 1, 1)
        shapes |= {f"{part}.head.0.gamma": (width, 1, 1, 1)} | layer(f"{part}.head.2", out, width, 3, 3, 3)
    return shapes


def vae_levels(name: str, width: int, mult: tuple[int, ...], time: tuple[bool, ...], blocks: int) -> Shapes:
    """The levels of one half of a VAE: residual blocks, and behind each level but the last a change of size."""
    shapes: Shapes = {}
    up, at = "upsamples" in name, 0
    for level, factor in enumerate(mult):
        for _ in range(blocks):
            shapes |= residual(f"{name}.{at}", width, VAE_DIM * factor)
            width, at = VAE_DIM * factor, at + 1
        if level < len(time):
            out = width // 2 if up else width
            shapes |= layer(f"{name}.{at}.resample.1", out, width, 3, 3)
            if time[level]:
                shapes |= layer(f"{name}.{at}.time_conv", 2 * width if up else width, width, 3, 1, 1)
            width, at = out, at + 1
    return shapes


def residual(name: str, width: int, out: int) -> Shapes:
    """A residual block of a VAE."""
    shapes: Shapes = {f"{name}.residual.0.gamma": (width, 1, 1, 1), f"{name}.residual.3.gamma": (out, 1, 1, 1)}
    shapes |= layer(f"{name}.residual.2", out, width, 3, 3, 3) | layer(f"{name}.residual.6", out, out, 3, 3, 3)
    return shapes if width == out else shapes | layer(f"{name}.shortcut", out, width, 1, 1, 1)


def umt5() -> Shapes:
    """A umt5 encoder in Wan's names, as wide as the transformer's text."""
    inner, norm = UMT5_HEADS * UMT5_HEAD_DIM, (TEXT_DIM,)
    block: Shapes = {f"attn.{side}": (inner, TEXT_DIM) for side in "qkv"}
    block |= {f"ffn.{part}": (UMT5_FFN_DIM, TEXT_DIM) for part in ("gate.0", "fc1")}
    block |= {"attn.o": (TEXT_DIM, inner), "ffn.fc2": (TEXT_DIM, UMT5_FFN_DIM)}
    block |= {"pos_embedding.embedding": (UMT5_BUCKETS, UMT5_HEADS), "norm1": norm, "norm2": norm}
    shapes = {f"blocks.{i}.{name}.weight": shape for i in range(UMT5_LAYERS) for name, shape in block.items()}
    return shapes | {"token_embedding.weight": (len(WORDS) + 3, TEXT_DIM), "norm.weight": norm}


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json that knows the words of the prompts."""
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    unused = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model, **unused}


if __name__ == "__main__":
    sys.exit(main())
