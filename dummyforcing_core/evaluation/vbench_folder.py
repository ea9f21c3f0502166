"""The folder of a VBench run: finished clips alone in videos/, the rest beside it.

    DIR/videos/{prompt}-{i}.mp4   VBench takes the ending of the first name it lists for that of all: only clips here
    DIR/manifest.json             how they were made, and every clip's seed
    DIR/takes/                    a take per clip, if they are kept: an interrupted one is gone on with
    DIR/unfinished/               what is being written, or was when a run was killed

A clip appears in videos/ whole and under its own name, or not at all; so what exists is finished. Every writer uses a
file name of its own: a process that outlived its killed run cannot spoil the one that goes on.
"""

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..clips.encoding import DEFAULT_ENCODING
from ..errors import OutputError, shown
from ..files import json_text, make_folder, output_error, rename_whole, write_atomic
from ..ownership import behind_lock, free_of_owners, shared, shares
from ..reading import cause, parse_json, read_text
from .vbench import SEED_RULE, Sample, Shard, Suite

FORMAT = "dummyforcing.vbench"
VERSION = 1
LEFT_OUT = {"fps": "16", "codec": str(DEFAULT_ENCODING)}  # what a manifest without it means


class ClipFolder:
    """A folder that clips are sampled into, by one process or many."""

    def __init__(self, path: Path):
        self.path = path
        self.videos, self.unfinished, self.manifest = path / "videos", path / "unfinished", path / "manifest.json"

    def make(self) -> None:
        """Makes the folders; OutputError if that cannot be."""
        for folder in (self.videos, self.unfinished):
            make_folder(folder)

    def ignores_case(self) -> bool:
        """Whether two names that differ in case are one file here."""
        probe = self.unfinished / f"case-{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.with_name(probe.name.upper()).exists()
        except OSError as error:
            raise output_error(probe, error) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def missing(self, samples: Iterable[Sample], check: Callable[[Path], None]) -> list[Sample]:
        """The samples whose clip is not there yet; `check` raises OutputError for what is there and is no such clip."""
        missing = []
        for sample in samples:
            video = self.videos / sample.file_name
            if not video.exists():
                missing.append(sample)
            else:
                check(video)
        return missing

    @contextlib.contextmanager
    def share(self, shard: Shard) -> Iterator[None]:
        """Owns one rank's share of the folder while the block runs; OutputError if another run has it."""
        others = (path for path in shares(self.path) if not path.name.endswith(f"-of-{shard.world}"))
        for _ in free_of_owners(others):
            pass  # a killed run of more or fewer ranks left it: who has owned it takes the lock away
        with shared(self.path, f"{shard.rank}-of-{shard.world}", [self.videos]):
            yield

    def clear_unfinished(self, prompts: Iterable[str]) -> None:
        """Drops what killed runs left of these prompts' clips, and nothing that is being written."""
        keys = {_key(prompt) for prompt in prompts}
        left = {path for path in map(behind_lock, self.unfinished.iterdir()) if path.name.split("-")[0] in keys}
        for path in free_of_owners(left):  # a lock that a killed run left goes with the owner's
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def working_file(self, sample: Sample) -> Path:
        """A new name to write a clip under."""
        return self.unfinished / f"{_key(sample.prompt)}-{sample.index}-{uuid.uuid4().hex[:8]}.mp4"

    def take_folder(self, sample: Sample) -> Path:
        """Where a clip is kept as a take, if that is asked for."""
        return self.path / "takes" / f"{_key(sample.prompt)}-{sample.index}"

    def finish(self, written: Path, sample: Sample) -> Path:
        """Gives a whole clip its own name."""
        target = self.videos / sample.file_name
        rename_whole(written, target)
        return target

    def tidy(self) -> None:
        """Removes unfinished/ if nothing is left in it."""
        with contextlib.suppress(OSError):
            self.unfinished.rmdir()

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, None if there is none; OutputError if it is damaged or of another kind."""
        try:
            self.manifest.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"cannot read {shown(self.manifest, 200)}: {cause(error)}") from error
        try:
            document = parse_json(read_text(self.manifest, "manifest", OutputError))
            known = (document["format"], document["version"]) == (FORMAT, VERSION)
            whole = isinstance(document["conditions"], dict) and all(map(_whole_entry, document["prompts"].values()))
        except (ValueError, TypeError, KeyError, AttributeError):
            known = whole = False
        if not (known and whole):
            raise OutputError(f"{self.manifest} is no manifest of this version; sample into another folder")
        return document

    def check(self, conditions: Mapping[str, Any], suite: Suite) -> None:
        """OutputError that names what differs, if clips here were made under other conditions or of other texts."""
        found = self.read_manifest()
        if found is None:
            return
        made = LEFT_OUT | found["conditions"]
        for name, value in conditions.items():
            if name in made and made[name] != value:
                raise OutputError(
                    f"expected {name} {shown(made[name])}, as of the clips in {self.path}, got {name} {shown(value)}; "
                    "repeat what they were made with, or choose another folder"
                )
        for prompt, text in suite.items():
            entry = found["prompts"].get(prompt)
            if entry is not None and entry["text"] != text:
                raise OutputError(
                    f"expected '{shown(prompt)}' sampled as '{shown(entry['text'], 40)}', as in {self.path}, got "
                    f"'{shown(text, 40)}'; "
                    "repeat the --extended file they were made with, or choose another folder"
                )

    def record(
        self,
        conditions: Mapping[str, Any],
        made_with: Mapping[str, Any],
        suite: Suite,
        seeds: Callable[[str], list[int]],
    ) -> None:
        """Writes the manifest once; later runs, with more prompts or samples, only add theirs.

        Every rank writes the same, so none has to wait for another.
        """
        self.check(conditions, suite)
        found = self.read_manifest()
        document = found or {
            "format": FORMAT,
            "version": VERSION,
            "conditions": dict(conditions),
            "made_with": dict(made_with),
            "seed_rule": SEED_RULE,
            "prompts": {},
        }
        entries = dict(document["prompts"])
        for prompt, text in suite.items():
            known: Sequence[int] = entries.get(prompt, {"seeds": []})["seeds"]
            entries[prompt] = {"text": text, "seeds": max(list(known), seeds(prompt), key=len)}
        if found is None or entries != found["prompts"]:
            whole = document | {"prompts": entries}
            write_atomic(self.manifest, json_text(whole, indent=1).encode("utf-8"))


def _whole_entry(entry: Any) -> bool:
    """Whether a prompt's entry has its text and its seeds."""
    return isinstance(entry, dict) and isinstance(entry.get("text"), str) and isinstance(entry.get("seeds"), list)


def _key(prompt: str) -> str:
    """A short name for a prompt's unfinished clips; the prompt itself may be too long for more than its own name."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]
