"""What lies in a take: as a LATENT, as videos, as words."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import folder_paths
from torch import Tensor

from ...dummyforcing_core.clips.take_view import frames_of_take, rate_of_take, size_of_take, texts_of_take
from ...dummyforcing_core.errors import DummyForcingError, shown
from ...dummyforcing_core.geometry import TEMPORAL, LatentShape, pixel_frames
from ...dummyforcing_core.models.families import DEMO
from ...dummyforcing_core.rates import clock, rate_of
from ...dummyforcing_core.takes.take import Take, events_of
from .demo import DemoLatents
from .files import Destination, OutputFile
from .mapped import MappedLatents
from .shown import Shown, with_shown
from .streaming import decode_pieces
from .takes import VIDEO, read_take

ABOUT = 400  # characters of a setting in the report


def latent_of(take: Take) -> dict[str, Any]:
    """Its LATENT, which lies in a file: memory does not grow with the clip."""
    shape = _shape(take)
    mapped = MappedLatents(shape)
    for latents in _latents(take):
        mapped.add(latents)
    samples = mapped.whole()
    return with_shown(samples.to(comfy.model_management.intermediate_device()), _shown(take, shape))


def decode_take(name: str, vae: Any, fps: float, to: Destination) -> list[OutputFile]:
    """Decodes a take to one video per batch item, chunk by chunk; fps 0 is the take's own rate."""
    take = read_take(name)
    shape = _shape(take)
    shown = _shown(take, shape)
    return decode_pieces(
        _latents(take), shape, shown, vae, replace(to, fps=rate_of(fps) if fps else rate_of_take(take))
    )


def videos_of(take: Take) -> list[Path]:
    """What the newest run has written of it to the output folder, as far as it is there."""
    root = Path(folder_paths.get_output_directory()).resolve()
    for event in reversed(events_of(take.folder)):
        files = event.get("files")
        if event.get("event") == VIDEO and isinstance(files, list):
            paths = [(root / str(name)).resolve() for name in files]
            if paths and all(root in path.parents and path.suffix == ".mp4" and path.is_file() for path in paths):
                return paths
    return []


def schedule_of(take: Take) -> str:
    """Its prompts as Prompt Schedule reads them; a line that does not count for one whose words nobody knows."""
    fps, lines = rate_of_take(take), list[str]()
    for frame, text in texts_of_take(take):
        time, said = clock(float(Fraction(TEMPORAL * frame) / fps)), " ".join(text.split())
        lines.append(f"{time} | {said}" if said else f"# {time} | a prompt whose words are not known")
    return "\n".join(lines)


def report_of(take: Take) -> str:
    """What it is and how it was made, for people."""
    manifest, fps = take.manifest, rate_of_take(take)
    done = "finished" if manifest.finished else 'unfinished: a Streaming Sampler whose take is "go on" goes on'
    there, of = (clock(float(pixel_frames(frames) / fps)) for frames in (take.frames, manifest.shape.frames))
    parent = (
        [] if manifest.parent is None else [("branch of", f"{manifest.parent[0]}, its {manifest.parent[1]} chunks")]
    )
    rows = [
        ("take", take.folder.name),
        ("chunks", f"{len(take.entries)}, {there} of {of}, {done}"),
        *parent,
        *([("damage", take.missing)] if take.missing else []),
        *(
            (name, value)
            for name, value in {**manifest.conditions, **manifest.machine}.items()
            if value not in ("", [])
        ),
    ]
    return "\n".join(f"{shown(name):<20}{shown(value, ABOUT)}" for name, value in rows)


def _latents(take: Take) -> Iterator[Tensor]:
    """Chunk by chunk as a LATENT holds them: the take has them as the model does."""
    family = take.manifest.conditions.get("family")
    form = DemoLatents() if family == DEMO else comfy.latent_formats.Wan21()
    for span in take.spans:
        yield form.process_out(take.latent(span).float())


def _shape(take: Take) -> LatentShape:
    """Of what is there."""
    if not take.entries:
        raise DummyForcingError(
            f"expected a take that holds a chunk, got {take.folder.name}, which holds none yet; go on with it first"
        )
    return replace(take.manifest.shape, frames=take.frames)


def _shown(take: Take, shape: LatentShape) -> Shown:
    """What its video shows."""
    return Shown(size_of_take(take), frames_of_take(take), (shape.frames, shape.height, shape.width))
