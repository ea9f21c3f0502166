"""Where the host keeps files: output videos with the workflow inside, checkpoints, profiles."""

import contextlib
import itertools
import json
import logging
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ...dummyforcing_core.clips.encoding import Encoding
from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.files import rename_whole
from ...dummyforcing_core.models.other_forms import SHARD
from ...dummyforcing_core.models.weight_files import READERS
from ...dummyforcing_core.ownership import NameTaken, owned

PROFILES = "dummyforcing_profiles"
DEFAULT_PREFIX = "video/streaming"
LONGEST_NAME = 200  # of 255: a number and .part.mp4 follow, and a lock's name is longer


def add_profile_folder() -> None:
    """Makes models/dummyforcing_profiles known to the host."""
    folder = Path(folder_paths.models_dir) / PROFILES
    folder_paths.add_model_folder_path(PROFILES, str(folder))
    folder_paths.folder_names_and_paths[PROFILES][1].add(".json")


def profile_names() -> list[str]:
    """Saved head profiles."""
    return folder_paths.get_filename_list(PROFILES)


def profile_path(name: str) -> Path | None:
    """A saved head profile; None if it is not on this machine."""
    found = folder_paths.get_full_path(PROFILES, name)
    return Path(found) if found else None


def new_profile_path(name: str) -> Path:
    """Where a profile of this name is saved: a plain file name, no folders above the profile folder."""
    folder = Path(folder_paths.get_folder_paths(PROFILES)[0])
    path = (folder / f"{name.removesuffix('.json')}.json").resolve()
    plain = name.removesuffix(".json").replace("\\", "/").rpartition("/")[2].strip(". ")
    if not plain or folder.resolve() not in path.parents:
        raise DummyForcingError(f"{name!r} is no name for a head profile; write a plain name, e.g. self_forcing_480p")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def model_names(kind: str) -> list[str]:
    """Files of a model folder such as diffusion_models or loras that can be read: one whole file of a known type."""
    names = folder_paths.get_filename_list(kind)
    return [name for name in names if Path(name).suffix.lower() in READERS and not SHARD.fullmatch(Path(name).name)]


def model_path(kind: str, name: str) -> Path:
    """One of them."""
    return Path(folder_paths.get_full_path_or_raise(kind, name))


def _clean(prefix: str) -> str:
    """A filename_prefix that every system can write: the page, too, puts _ for what Windows refuses in a name."""
    prefix = re.sub(r'[*?<>:"|\x00-\x1f\x7f]', "_", prefix.strip().replace("\\", "/"))
    longest = max((len(os.fsencode(part)) for part in prefix.split("/")), default=0)
    if longest > LONGEST_NAME:
        raise DummyForcingError(
            f"expected names of at most {LONGEST_NAME} bytes in filename_prefix, got {longest}; use a shorter one"
        )
    # The host cleans a prefix when it names files, but not when it counts those that are there.
    return os.path.normpath(prefix)


@dataclass(frozen=True)
class Destination:
    """Where a clip's videos go, and how they are coded. `hidden` is the node's: its id, prompt and workflow, which the
    files carry."""

    fps: Fraction
    prefix: str
    encoding: Encoding
    hidden: Any

    @property
    def node(self) -> str | None:
        """The node as the page has it: a loop runs copies of it, under ids that only the host knows."""
        graph, node = self.hidden.dynprompt, self.hidden.unique_id
        return graph.get_display_node_id(node) if graph is not None else node


class OutputFile:
    """A video of the output folder: `part` while it grows, `path` when it is whole."""

    def __init__(self, prefix: str, width: int, height: int, item: int = 0):
        prefix = _clean(prefix)
        folder, name, counter, self.subfolder, _ = folder_paths.get_save_image_path(
            DEFAULT_PREFIX if prefix == "." else prefix, folder_paths.get_output_directory(), width, height
        )
        self._ownership = contextlib.ExitStack()
        self.path = self._free(Path(folder), name, counter + item)
        self.part = self.path.with_name(f"{self.path.stem}.part.mp4")

    @property
    def shown_part(self) -> str:
        """`part` as people find it, below the output folder."""
        return f"{self.subfolder}/{self.part.name}" if self.subfolder else self.part.name

    def _free(self, folder: Path, name: str, counter: int) -> Path:
        """The first name from this number on that nobody has and nobody else is writing: another ComfyUI may share the
        folder, another item of the batch does."""
        for number in itertools.count(counter):
            path = folder / f"{name}_{number:05}_.mp4"
            with contextlib.suppress(NameTaken):
                self._ownership.enter_context(owned(path))
                if not path.exists():
                    break
                self._ownership.close()
        return path

    def finish(self) -> Path:
        """Gives the video its name."""
        rename_whole(self.part, self.path)
        self._ownership.close()
        return self.path

    def abandon(self) -> None:
        """Says where the playable part of an unfinished clip is."""
        self._ownership.close()
        if self.part.exists():
            logging.warning("Dummy Forcing: the clip was not finished; what was made plays: %s", self.part)


def workflow_tags(hidden: Any) -> dict[str, str]:
    """The prompt and workflow as the host's own save nodes put them into a video."""
    if args.disable_metadata:
        return {}
    tags = {key: json.dumps(value) for key, value in (hidden.extra_pnginfo or {}).items()}
    if hidden.prompt is not None:
        tags["prompt"] = json.dumps(hidden.prompt)
    return tags
