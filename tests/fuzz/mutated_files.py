"""Spoiled files for every reader: each is read, or refused in one line; nothing else may happen.

    python -m tests.fuzz.mutated_files --cases 5000 --seed 7                    every reader, by hand
    python -m tests.fuzz.mutated_files --reader lora --seed 7 --case 123        one case again, with its traceback

A case is made of (reader, seed, number) alone. While it runs, the process may not take much more memory than it has.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch

from dummyforcing_core.cli.common import read_prompts
from dummyforcing_core.clips.script import Script
from dummyforcing_core.clips.start import image_pixels, start_from_latents
from dummyforcing_core.clips.text_features import TextFiles, features_of
from dummyforcing_core.errors import MESSAGE, DummyForcingError
from dummyforcing_core.evaluation.vbench_folder import ClipFolder
from dummyforcing_core.evaluation.vbench_scores import read_results
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.plan import HeadPlan
from dummyforcing_core.models.checkpoints import LoadedModel, load_model
from dummyforcing_core.models.lora import Lora
from dummyforcing_core.policies.forcing_kv import HeadLabels
from dummyforcing_core.policies.profile import HeadProfile
from dummyforcing_core.takes.features import FEATURES
from dummyforcing_core.takes.pictures import PICTURES, name_of
from dummyforcing_core.takes.records import RecordWriter, payload, scan
from dummyforcing_core.takes.snapshot import SNAPSHOT
from dummyforcing_core.takes.take import LATENTS, MANIFEST, Take
from dummyforcing_core.text.umt5_file import open_umt5
from dummyforcing_core.text.umt5_tokenizer import load_tokenizer
from dummyforcing_core.vae.tiny_vae_file import load_tiny_decoder
from dummyforcing_core.vae.wan_vae_file import load_wan_vae
from tests.fuzz import mutations, seed_files
from tests.fuzz.mutations import Mutation
from tests.fuzz.seed_files import sound

MOST_BYTES = 2**31  # above what the process has when a case begins
SHAPE = LatentShape(1, 16, 3, 4, 4)


@dataclass(frozen=True)
class Reader:
    """make(folder) -> a sound file's bytes; read(path) is what is tried; mutations: what may spoil it."""

    name: str
    make: Callable[[Path], bytes]
    read: Callable[[Path], object]
    mutations: Sequence[Mutation]


PICTURE = f"{PICTURES}/{name_of(0)}"


def _load(path: Path) -> object:
    return load_model(path, "self_forcing", dtype=torch.float32)


def _load_with_lora(path: Path) -> object:
    base = path.with_name("base.safetensors")
    base.write_bytes(seed_files.checkpoint_safetensors())
    return load_model(base, lora=Lora.read(path))


def _features(path: Path) -> object:
    base = path.with_name("base.safetensors")
    base.write_bytes(seed_files.checkpoint_safetensors())
    loaded: LoadedModel = load_model(base)
    return features_of(loaded, TextFiles(embedding=path).embedding, lambda text: None)("x")


def _umt5_folder(path: Path) -> object:
    folder = path.with_name("umt5")
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(_umt5(folder))
    (folder / "config.json").write_bytes(path.read_bytes())
    return open_umt5(folder)


def _tokenizer(path: Path) -> object:
    return load_tokenizer(path.with_name("none.safetensors"), path, None).ids("a red circle &amp; a", 16)


def _image(path: Path) -> object:
    return image_pixels(path, SHAPE, lambda text: None)


def _manifest(path: Path) -> object:
    return ClipFolder(path.parent).read_manifest()


def _of_take(name: str) -> Callable[[Path], bytes]:
    return lambda folder: (_sound_take(folder) / name).read_bytes()


def _sound_take(folder: Path) -> Path:
    shutil.rmtree(folder / "sound_take", ignore_errors=True)
    return seed_files.take(folder)


def _record(folder: Path) -> bytes:
    path = _sound_take(folder) / LATENTS
    return payload(path, scan(path).records[0])


def _take(name: str, path: Path) -> object:
    folder = _sound_take(path.parent)
    (folder / name).write_bytes(path.read_bytes())
    return _all_of(folder)


def _all_of(folder: Path) -> object:
    """Everything that is read of a take."""
    take = Take(folder)
    take.read_all()
    features = [take.features(entry, heard) for entry in take.entries for heard in entry.heard]
    made = take.made()
    layers = [] if made.stored is None else [made.stored.layer(layer) for layer in range(2)]
    return made, features, layers, [take.picture(entry.span.chunk) for entry in take.entries]


def _take_of_record(path: Path) -> object:
    folder = _sound_take(path.parent)
    (folder / LATENTS).unlink()
    RecordWriter(folder / LATENTS).append(path.read_bytes())
    return _all_of(folder)


def _umt5(folder: Path) -> bytes:
    return seed_files.save(sound().umt5)


def _checkpoint_pt(folder: Path, zipped: bool = True) -> bytes:
    return seed_files.torch_bytes({"generator_ema": sound().checkpoint, "step": 3}, zipped)


def _tokenizer_json(folder: Path) -> bytes:
    seed_files.tiny_umt5.save_tokenizer(sound().spiece, folder / "tokenizer")
    return (folder / "tokenizer" / "tokenizer.json").read_bytes()


def _tensor(name: str, *shape: int) -> Callable[[Path], bytes]:
    return lambda folder: seed_files.save({name: torch.ones(shape)})


def _bytes(content: bytes) -> Callable[[Path], bytes]:
    return lambda folder: content


def _readers() -> Iterator[Reader]:
    m = mutations
    yield Reader("checkpoint.safetensors", lambda _: seed_files.checkpoint_safetensors(), _load, m.SAFETENSORS)
    yield Reader("scaled.safetensors", lambda _: seed_files.scaled_checkpoint(), _load, m.SAFETENSORS)
    yield Reader("checkpoint.pt", _checkpoint_pt, _load, m.TORCH)
    yield Reader("checkpoint_old.pt", partial(_checkpoint_pt, zipped=False), _load, m.BINARY)
    yield Reader("lora.safetensors", lambda _: seed_files.save(sound().lora), _load_with_lora, m.SAFETENSORS)
    yield Reader("lora.pt", lambda _: seed_files.torch_bytes({"generator_lora": sound().lora}), Lora.read, m.TORCH)
    yield Reader("vae.pth", lambda _: seed_files.vae(), load_wan_vae, m.TORCH)
    yield Reader("taew2_1.safetensors", lambda _: seed_files.tiny_vae(), load_tiny_decoder, (m.edit_header,))
    yield Reader("umt5.safetensors", _umt5, open_umt5, m.SAFETENSORS)
    yield Reader("config.json", lambda _: seed_files.umt5_config(), _umt5_folder, m.JSON)
    yield Reader("tokenizer.json", _tokenizer_json, _tokenizer, m.JSON)
    yield Reader("spiece.model", lambda _: sound().spiece, _tokenizer, m.BINARY)
    yield Reader("features.safetensors", _tensor("a", 5, 8), _features, m.SAFETENSORS)
    yield Reader("latents.safetensors", _tensor("latent", 1, 16, 1, 4, 4), partial(start_from_latents, shape=SHAPE),
                 m.SAFETENSORS)  # fmt: skip
    yield Reader("image.png", lambda _: seed_files.image("PNG"), _image, m.BINARY)
    yield Reader("image.jpg", lambda _: seed_files.image("JPEG"), _image, m.BINARY)
    yield Reader("image.webp", lambda _: seed_files.image("WEBP"), _image, m.BINARY)
    yield Reader("profile.json", seed_files.profile, HeadProfile.read, m.JSON)
    yield Reader("heads.json", lambda _: seed_files.head_labels(), HeadLabels.read, m.JSON)
    yield Reader("take.json", _of_take(MANIFEST), partial(_take, MANIFEST), m.JSON)
    yield Reader("latents.take", _of_take(LATENTS), partial(_take, LATENTS), m.BINARY)
    yield Reader("prompts.take", _of_take(FEATURES), partial(_take, FEATURES), m.BINARY)
    yield Reader("kv.take", _of_take(SNAPSHOT), partial(_take, SNAPSHOT), m.BINARY)
    yield Reader("00000.jpg", _of_take(PICTURE), partial(_take, PICTURE), m.BINARY)
    yield Reader("record.safetensors", _record, _take_of_record, m.SAFETENSORS)
    yield Reader("plan.json", lambda _: seed_files.plan(), _plan, m.JSON)
    yield Reader("prompts.txt", _bytes(seed_files.TEXT.encode()), read_prompts, m.TEXT)
    yield Reader("schedule.txt", _bytes(seed_files.TEXT.encode()), Script.read, m.TEXT)
    yield Reader("schedule.jsonl", _bytes(b'{"prompts": ["a", "b"]}\n{"prompts": ["c", "d"]}\n'),
                 partial(Script.read, switch_frames=(9,)), m.TEXT)  # fmt: skip
    yield Reader("results.json", _bytes(b'{"scene": [0.5, [{"video_path": "x"}]], "color": [1, []]}'),
                 lambda path: read_results([path]), m.JSON)  # fmt: skip
    yield Reader("manifest.json", lambda _: seed_files.manifest(), _manifest, m.JSON)


def _plan(path: Path) -> object:
    return HeadPlan.from_json(path.read_text(encoding="utf-8", errors="replace"))


READERS = {reader.name: reader for reader in _readers()}


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Asking for MOST_BYTES more than there is now fails, where the system has such limits."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def spoiled(reader: Reader, whole: bytes, seed: int, number: int) -> bytes:
    """The bytes of one case; number 0 is the sound file."""
    chance = Random(f"{reader.name}:{seed}:{number}")
    for _ in range(0 if number == 0 else chance.choice((1, 1, 1, 2, 3))):
        whole = chance.choice(reader.mutations)(chance, whole)
    return whole


def fault(reader: Reader, path: Path) -> str:
    """What is wrong with how the reader took the file; "" if it read it or refused it in one line."""
    try:
        with bounded_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except DummyForcingError as error:
        line = str(error).replace(str(path.parent), "")
        if len(line) > MESSAGE:
            return f"a message of {len(line):,} characters: {line[:200]!r}"
        return "" if line.isprintable() else f"a message that is no line of printable characters: {line[:400]!r}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        return f"{type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc()}"
    return ""


def run_cases(reader: Reader, seed: int, numbers: Sequence[int]) -> Iterator[str]:
    """A text for every case that went wrong, with the command that repeats it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = reader.make(folder)
        path = folder / reader.name
        for number in numbers:
            path.write_bytes(spoiled(reader, whole, seed, number))
            if wrong := fault(reader, path):
                again = f"python -m tests.fuzz.mutated_files --reader {reader.name} --seed {seed} --case {number}"
                yield f"{again}\n{wrong}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500, help="of every reader")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--case", type=int, help="this one only")
    args = parser.parse_args()
    numbers = range(args.cases) if args.case is None else [args.case]
    wrong = 0
    for name in args.reader or READERS:
        began, faults = time.perf_counter(), 0
        for text in run_cases(READERS[name], args.seed, numbers):
            faults += 1
            print(text, file=sys.stderr)
        print(f"{name}: {len(numbers)} cases, seed {args.seed}, {faults} wrong, {time.perf_counter() - began:.1f} s")
        wrong += faults
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
