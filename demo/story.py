"""One clip with prompt switches and two dark gaps under two memories: the pictures and figures of docs/story.md.

`python -m demo.story` writes docs/story_*.png from seed 0; with `--clips 16` it prints figures over seeds 0 .. 15.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dummyforcing_core.clips.contact_sheet import contact_sheet, save_png
from dummyforcing_core.clips.pipeline import Compute, Pipeline, Weights, load_pipeline
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models.families import DEMO
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.text.demo_text import parse_prompt
from dummyforcing_core.vae.streaming import to_uint8

from .measure import colour_recall, shapes_right
from .world import CHUNK_FRAMES, SIZE_PX, Clips, chunk_of_pixel_frame, simulate

NAMED = "a red circle at the top left moving sideways and a blue square at the bottom right moving sideways"
BOTH = "a circle moving sideways and a square moving sideways"
SQUARE_MOVES = "a circle standing still and a square moving sideways"
CIRCLE_MOVES = "a circle moving sideways and a square standing still"
# One prompt per chunk, as many as the model was trained on. Colours are named in the first two only; the motion changes
# in either dark gap. One shape stays in the upper half and one in the lower: they never meet.
STORY = (
    *[NAMED] * 2,
    BOTH + ", lights off",
    SQUARE_MOVES + ", lights off",
    SQUARE_MOVES,
    CIRCLE_MOVES + ", lights off",
    CIRCLE_MOVES,
)
RED, BLUE, CIRCLE, SQUARE = 0, 4, 0, 1


@dataclass(frozen=True)
class Telling:
    """One way to make the story: its sheet's name and title, the memory, chunks that a switch takes."""

    name: str
    title: str
    policy: Policy
    blend_chunks: int = 0


TELLINGS = (
    Telling("dense", "The full cache: every head remembers everything", Full()),
    Telling("dummy_forcing", "Dummy Forcing: 50 % of the heads without history but one frame", DummyForcing()),
    Telling("blended", "The full cache; every switch takes one chunk, made half way between the prompts", Full(), 1),
)


def truth() -> Clips:
    """What the world shows for the story."""
    slots = torch.tensor([[parse_prompt(prompt)[0] for prompt in STORY]])
    colour, kind = torch.tensor([[RED, BLUE]]), torch.tensor([[CIRCLE, SQUARE]])
    return simulate(colour, kind, torch.ones(1, 2, dtype=torch.bool), slots, torch.zeros(1, 2, 2))


def make(pipeline: Pipeline, telling: Telling, seed: int) -> Tensor:
    """The story's pixels (1, F, 3, H, W) in [-1, 1]."""
    family = pipeline.family
    shape = LatentShape(1, 16, CHUNK_FRAMES * len(STORY), SIZE_PX // 8, SIZE_PX // 8)
    context = {prompt: pipeline.encode(prompt) for prompt in STORY}
    prompts = PromptSchedule.per_chunk([context[prompt] for prompt in STORY], CHUNK_FRAMES)
    prompts = prompts.blended(telling.blend_chunks, range(0, shape.frames, CHUNK_FRAMES))
    noise = SeededNoise(seed, shape, CHUNK_FRAMES)
    run = Run(pipeline.denoiser, shape, family.schedule, prompts, telling.policy, family, noise)
    latents = torch.cat([chunk.latent for chunk in rollout(run)], 2)
    decoder = pipeline.new_decoder()
    return torch.cat([decoder.push(latents), decoder.flush()], 2).transpose(1, 2)


def sheet(pixels: Tensor, title: str, path: Path) -> None:
    """Three frames of every chunk, a column each: early, middle and last."""
    frames = to_uint8(pixels.transpose(1, 2))[0]
    chunk = chunk_of_pixel_frame(len(STORY))
    tiles, captions = [], []
    for number, prompt in enumerate(STORY):
        inside = (chunk == number).nonzero()[:, 0].tolist()
        light = "dark" if "lights off" in prompt else "lit"
        said = "named" if prompt is NAMED else light
        for frame in (inside[2], inside[len(inside) // 2 + 1], inside[-1]):
            tiles.append(frames[frame])
            captions.append(f"chunk {number}, {said}")
    save_png(contact_sheet(tiles, len(STORY), captions, title=title, scale=3, by_column=True), path)


def figures(clips: list[Tensor]) -> list[str]:
    """Per lit chunk: mean share of true colours, and in how many clips both shapes are right."""
    lines, world = [], truth()
    right = torch.cat([shapes_right(pixels, world)[0].all(1) for pixels in clips])
    for number, prompt in enumerate(STORY):
        if "lights off" not in prompt:
            recall = sum(float(colour_recall(pixels, world, number)) for pixels in clips) / len(clips)
            lines.append(
                f"  chunk {number:2}: true colours {recall:.2f}, both shapes right {int(right[:, number].sum())}"
            )
    return lines


def main() -> None:
    """Writes the sheets and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--clips", type=int, default=1, help="seeds 0 .. N - 1 for the figures; the sheets show seed 0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(Weights(DEMO), Compute(torch.device("cpu")))
    for telling in TELLINGS:
        clips = [make(pipeline, telling, seed) for seed in range(args.clips)]
        title = f"{telling.title}. Seed 0; colours are named in chunks 0 and 1 only."
        sheet(clips[0], title, args.out / f"story_{telling.name}.png")
        print("\n".join([f"{telling.title}; {len(clips)} clips", *figures(clips)]))


if __name__ == "__main__":
    main()
