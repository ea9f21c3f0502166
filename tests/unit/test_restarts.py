"""CausVid's long videos: clips of 21 frames, each begun with the end of the one before, against the description.

Facts: tianweiy/CausVid, minimal_inference/longvideo_autoregressive_inference.py, defaults num_overlap_frames 3.
"""

import gc
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dummyforcing_core.clips.memory_use import MemoryUse
from dummyforcing_core.errors import OutputError, PlanError
from dummyforcing_core.geometry import LatentShape, Span, chunk_spans
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.loops.restarts import Part, parts_of, restarts
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run, setting_of
from dummyforcing_core.loops.table import clip_kv_shape, loop_of
from dummyforcing_core.models.denoiser import Step, WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from tests.property.tiny import context, tiny_model

CAUSVID = get_family("causvid")
STEPS = len(CAUSVID.steps)
FULL = Full()
MODEL = tiny_model()
A, B = context(0), context(1)


class Noting(WanDenoiser):
    """Notes of every call: the places of its frames, its noise level, its text, and the places that heads hold."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.calls: list[tuple[list[int], float, Tensor, list[int]]] = []
        self.inputs: list[Tensor] = []
        self.caches: list[weakref.ref[KVCache]] = []

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        if not self.caches or self.caches[-1]() is not step.cache:
            self.caches.append(weakref.ref(step.cache))
        held = step.cache.export(0, 0)[0]
        self.calls.append((list(step.cache.query_frames), round(float(sigma[0, 0]), 4), context, held))
        self.inputs.append(x)
        return super().__call__(x, sigma, context, step)


class Stills:
    """A made-up encoder: some function of the latent itself, so that nothing else can give it."""

    def __init__(self) -> None:
        self.latents: list[Tensor] = []
        self.asked: list[tuple[int, int]] = []  # frame, and how many were pushed by then

    def push(self, latents: Tensor) -> None:
        self.latents += latents.split(1, dim=2)

    def at(self, frame: int) -> Tensor:
        self.asked.append((frame, len(self.latents)))
        return still_of(self.latents[frame])


def still_of(latent: Tensor) -> Tensor:
    return 0.5 * latent.flip(-1) + 0.3


def run_of(frames: int, policy: Policy = FULL, given: int = 0, still: bool = True, **prompts: Tensor) -> Run:
    """A video of so many latent frames; f9=B: prompt B from frame 9 on."""
    shape = LatentShape(1, 16, frames, 4, 4)
    entries = ((0, A), *((int(at[1:]), text) for at, text in prompts.items()))
    return Run(
        Noting(),
        shape,
        CAUSVID.schedule,
        PromptSchedule(entries),
        policy,
        CAUSVID,
        SeededNoise(0, shape, 3),
        start=given_latents(given) if given else None,
        still=Stills() if still else None,
    )


def chunks_of(run: Run) -> list[ChunkResult]:
    """All of them, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(restarts(run))


def given_latents(frames: int) -> Tensor:
    return torch.randn(1, 16, frames, 4, 4, generator=torch.Generator().manual_seed(5))


def joined(chunks: list[ChunkResult]) -> Tensor:
    return torch.cat([chunk.latent for chunk in chunks], dim=2)


# -- which clips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "given", "parts"),
    [
        (3, 0, [(0, 3, 0)]),
        (21, 0, [(0, 21, 0)]),
        (22, 0, [(0, 21, 0), (18, 22, 3)]),
        (39, 0, [(0, 21, 0), (18, 39, 3)]),
        (63, 0, [(0, 21, 0), (18, 39, 3), (36, 57, 3), (54, 63, 3)]),
        (19, 1, [(0, 19, 1)]),
        (30, 1, [(0, 19, 1), (16, 30, 3)]),  # a given image: whole chunks behind it
        (30, 18, [(0, 21, 18), (18, 30, 3)]),
        (42, 21, [(18, 39, 3), (36, 42, 3)]),  # a whole clip to go on from: its end alone
        (30, 24, [(21, 30, 3)]),
        (24, 24, [(21, 24, 3)]),
    ],
)
def test_the_clips_of_a_video(frames: int, given: int, parts: list[tuple[int, int, int]]) -> None:
    assert parts_of(frames, CAUSVID, given) == [Part(*part) for part in parts]
    for start, stop, _ in parts:
        assert stop - start <= 21


@pytest.mark.parametrize("overlap", [0, 19, 21])
def test_an_overlap_that_leaves_no_room_is_refused(overlap: int) -> None:
    with pytest.raises(PlanError, match=f"overlap by {overlap} in chunks of 3"):
        parts_of(30, replace(CAUSVID, overlap_frames=overlap))


# -- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [9, 21])
def test_a_clip_that_fits_is_that_of_the_ordinary_loop(frames: int) -> None:
    run = run_of(frames, still=False)
    noise = SeededNoise(0, run.shape, 3)
    plain = rollout(Run(Noting(), run.shape, CAUSVID.schedule, run.prompts, FULL, CAUSVID, noise))
    assert torch.equal(joined(chunks_of(run)), joined(list(plain)))


def test_passes_places_levels_and_frames_seen() -> None:
    """Frame 18 of the first clip is turned into a still; 19 and 20 stand behind it; nothing older is seen again."""
    run = run_of(27)
    made = joined(chunks_of(run))
    levels = [1.0, 0.7568, 0.5217, 0.0]

    def chunk(place: int) -> list[tuple[list[int], float, list[int]]]:
        return [(list(range(place, place + 3)), level, list(range(place))) for level in levels]

    first = [call for place in range(0, 21, 3) for call in chunk(place)]
    second = [([0, 1, 2], 0.0, []), *chunk(3), *chunk(6)]
    assert [(places, level, held) for places, level, _, held in run.denoise.calls] == first + second
    read = run.denoise.inputs[len(first)]
    torch.testing.assert_close(read, torch.cat((still_of(made[:, :, 18:19]), made[:, :, 19:21]), 2))
    assert run.still is not None and run.still.asked == [(18, 21)]


@pytest.mark.parametrize("given", [0, 1, 5, 20, 21, 24])
def test_every_clip_is_the_ordinary_loop_behind_its_start(given: int) -> None:
    """By hand: each clip made alone, from its still and the latents behind it, with the video's own noise."""
    run = run_of(given + 40, given=given)
    chunks = chunks_of(run)
    made = joined(chunks)
    for part in parts_of(run.shape.frames, CAUSVID, given):
        start = made[:, :, : part.held] if part.held else None
        if part.start:
            end = made[:, :, part.start : part.start + 3]
            start = torch.cat((still_of(end[:, :, :1]), end[:, :, 1:]), 2)
        shape = replace(run.shape, frames=part.stop - part.start)
        whole = chunk_spans(run.shape.frames, 3, given)

        def noise(step: int, span: Span, part=part, whole=whole) -> Tensor:
            return run.noise(step, next(s for s in whole if s.start == span.start + part.start and not s.given))

        alone = rollout(Run(Noting(), shape, CAUSVID.schedule, run.prompts, FULL, CAUSVID, noise, start))
        expected = joined(list(alone))[:, :, part.held :]
        assert torch.equal(made[:, :, part.start + part.held : part.stop], expected)
    assert [chunk.span for chunk in chunks] == chunk_spans(run.shape.frames, 3, given)
    if run.start is not None:
        assert torch.equal(chunks[0].latent, run.start) and chunks[0].span.given


def test_without_a_vae_the_plain_latent_stands_there_and_a_line_says_so() -> None:
    run = run_of(24, still=False)
    with pytest.warns(UserWarning, match="CausVid 1.3B begins its context with a re-encoded pixel frame"):
        made = joined(list(restarts(run)))
    assert torch.equal(run.denoise.inputs[7 * (STEPS + 1)], made[:, :, 18:21])


def test_pixels_are_made_only_where_another_clip_follows() -> None:
    short, long = run_of(21), run_of(24)
    chunks_of(short), chunks_of(long)
    assert short.still is not None and short.still.latents == []
    assert long.still is not None and len(long.still.latents) == 21


def test_a_still_of_another_shape_is_refused() -> None:
    run = run_of(24)
    assert run.still is not None
    run.still.at = lambda frame: torch.zeros(1, 16, 1, 2, 2)  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="a still frame of shape"):
        chunks_of(run)


def test_a_start_of_another_shape_is_refused() -> None:
    run = run_of(30, given=1)
    with pytest.raises(OutputError, match="start latents of shape"):
        replace(run, start=torch.zeros(1, 16, 1, 2, 2))


# -- prompts, progress -----------------------------------------------------------------------------------------------


def test_a_switch_acts_at_the_next_chunk_and_what_was_before_keeps_its_prompt() -> None:
    run = run_of(30, f22=B)
    chunks_of(run)
    active = [("B" if text is B else "A") for _, _, text, _ in run.denoise.calls]
    calls = STEPS + 1
    assert "".join(active) == "A" * 7 * calls + "A" + "A" * calls + "B" * 2 * calls
    early = run_of(30, f19=B)  # acts at 21, the first new chunk of the second clip
    chunks_of(early)
    active = [("B" if text is B else "A") for _, _, text, _ in early.denoise.calls]
    assert "".join(active) == "A" * 7 * calls + "A" + "B" * 3 * calls


def test_steps_are_announced_by_the_videos_own_chunks() -> None:
    announced: list[tuple[Span, int]] = []
    watched: list[tuple[Span, int]] = []
    chunks_of(
        replace(
            run_of(24),
            on_step=lambda *step: announced.append(step),
            watch=lambda *step: watched.append(step),
        )
    )
    spans = chunk_spans(24, 3)
    own = [(span, i) for span in spans for i in range(STEPS + 1)]
    overlap = Span(6, 18, 21, given=True), STEPS
    assert announced == [*own[: 7 * (STEPS + 1)], overlap, *own[7 * (STEPS + 1) :]]
    assert watched == [(span, i) for span in spans for i in range(STEPS)]


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [FULL, SlidingWindow(12, 3), DummyForcing(), DummyForcing(reclassify_chunks=2)])
@pytest.mark.parametrize("given", [0, 1, 24])
def test_bytes_are_as_priced_and_do_not_grow(policy: Policy, given: int) -> None:
    run = run_of(given + 57, policy, given=given)
    memory = MemoryUse(clip_kv_shape(run.denoise.geometry, run.shape, CAUSVID))
    setting = setting_of(run.denoise.geometry, replace(run.shape, frames=21), CAUSVID)
    most = policy.plan(setting)  # of one clip, however long the video
    for chunk in restarts(run):
        assert chunk.history_bytes == chunk.predicted_history_bytes
        assert chunk.resident_bytes == chunk.predicted_resident_bytes
        assert chunk.peak_bytes <= chunk.predicted_peak_bytes
        assert chunk.peak_bytes <= most.peak_bytes(memory.shape)
        memory.add(chunk)
    assert memory.shape.clip_frames == 21
    peak = memory.rows()["peak_bytes"]
    assert peak["actual"] == peak["predicted"]
    gc.collect()
    assert all(cache() is None for cache in run.denoise.caches)


def test_heads_are_sorted_in_every_clip_anew() -> None:
    chunks = chunks_of(run_of(57, DummyForcing()))
    assert [chunk.span.chunk for chunk in chunks if chunk.scores is not None] == [1, 7, 13]


def test_a_closed_loop_frees_its_cache() -> None:
    run = run_of(30)
    chunks = restarts(run)
    for _ in range(8):
        next(chunks)
    assert run.denoise.caches[-1]() is not None
    chunks.close()
    gc.collect()
    assert all(cache() is None for cache in run.denoise.caches)


def test_the_familys_row_names_this_loop() -> None:
    assert loop_of(CAUSVID).run is restarts
