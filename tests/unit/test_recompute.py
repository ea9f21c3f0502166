"""Krea Realtime 14B's loop on a denoiser that only records: which latents are read where, under which prompt and level.

A finished latent frame f holds the number f + 1 in every place, a still of frame f holds 100 + f, and the recorder
makes values of the cache out of these numbers: the tables below say what a head sees.
"""

import gc
import warnings
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dummyforcing_core.errors import DummyForcingError, OutputError, PlanError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.cache import KVCache
from dummyforcing_core.loops.context_latents import ContextLatents, context_frames
from dummyforcing_core.loops.recompute import context_shape, recompute
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.models.checkpoints import empty_model, load_model
from dummyforcing_core.models.denoiser import ModelGeometry, Step, WanDenoiser
from dummyforcing_core.models.families import FAMILIES, Family
from dummyforcing_core.models.names import official_names
from dummyforcing_core.models.stepcache import NO_STEPS, StepCache
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.models.wan_geometry import geometry
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule, nearest_sigma, sigma_table

TIMESTEPS = (1000, 937.5, 833.333, 625, 0)
SCHEDULE = Schedule.from_timesteps(TIMESTEPS, 5.0)
KREA = Family("krea", "Krea Realtime 14B", "krea-ai/realtime-video", window_frames=6, trained_frames=10**6)
HEADS = 2


def prompt(number: int) -> Tensor:
    return torch.full((1, 1, 1), float(number))


@dataclass
class Call:
    """One model call. positions, numbers: of its frames; held: numbers in each head's cache, in order."""

    positions: list[int]
    sigma: float
    timestep: float | None
    prompt: int
    output: bool
    numbers: list[float]
    held: list[list[int]]

    @property
    def clean(self) -> bool:
        return not self.output


class Recorder:
    """Answers a chunk's last call with its frames' numbers, earlier ones with nonsense."""

    def __init__(self, given: int = 0, last_timestep: float = 0.0):
        self.geometry = ModelGeometry(1, HEADS, 4, 16, torch.device("cpu"), torch.float32)
        self.calls: list[Call] = []
        self.made, self.last_timestep = given, last_timestep
        self.cache: weakref.ref[KVCache] | None = None

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        cache, frames = step.cache, x.shape[2]
        self.cache = weakref.ref(cache)
        assert sigma.shape == (x.shape[0], frames) and len(sigma.unique()) == 1
        held = [cache.export(0, head)[2][0].flatten(1).mean(1) for head in range(HEADS)]
        numbers = x[0].mean((0, 2, 3)).tolist()
        self.calls.append(
            Call(
                list(cache.query_frames),
                float(sigma[0, 0]),
                step.timestep,
                int(context.flatten()[0]),
                step.output,
                numbers,
                [v.unflatten(0, (-1, cache.shape.frame_tokens))[:, 0].round().int().tolist() for v in held],
            )
        )
        v = x.mean(1).unflatten(-1, (-1, 2)).mean(-1).unflatten(-2, (-1, 2)).mean(-2).flatten(1)
        v = v[:, :, None, None].expand(-1, -1, HEADS, self.geometry.head_dim)
        if not step.output:
            cache.store(0, v, v)
            return None
        cache(0, torch.zeros_like(v), torch.zeros_like(v), v)
        if step.timestep != self.last_timestep:
            return torch.full_like(x, -7.0)
        self.made += frames
        return frame_numbers(self.made - frames, self.made).expand_as(x).clone()

    def time_signal(self, sigma: float, modulation: bool) -> Tensor:
        raise AssertionError


def frame_numbers(start: int, stop: int) -> Tensor:
    return torch.arange(start + 1, stop + 1, dtype=torch.float32)[None, None, :, None, None]


class Stills:
    """A hook that counts what it is given."""

    def __init__(self) -> None:
        self.pushed: list[float] = []
        self.asked: list[int] = []

    def push(self, latents: Tensor) -> None:
        self.pushed += latents[0].mean((0, 2, 3)).tolist()

    def at(self, frame: int) -> Tensor:
        assert self.pushed[frame] == frame + 1
        self.asked.append(frame)
        return torch.full((1, 16, 1, 4, 4), 100.0 + frame)


def krea(context: int = 3, sink: int = 0, chunk: int = 3) -> Family:
    return replace(KREA, chunk_frames=chunk, window_frames=context + chunk, sink_frames=sink)


def run(
    frames: int,
    family: Family = KREA,
    given: int = 0,
    stills: Stills | None = None,
    prompts: PromptSchedule | None = None,
    policy: Policy | None = None,
    schedule: Schedule = SCHEDULE,
    steps: StepCache = NO_STEPS,
    on_step=lambda span, step: None,
    recorder: Recorder | None = None,
    last_timestep: float = 0.0,
) -> tuple[list[ChunkResult], list[Call]]:
    shape = LatentShape(1, 16, frames, 4, 4)
    recorder = recorder or Recorder(given, last_timestep)
    start = frame_numbers(0, given).expand(1, 16, -1, 4, 4).clone() if given else None
    chunks = recompute(
        Run(
            recorder,
            shape,
            schedule,
            prompts or PromptSchedule.constant(prompt(0)),
            policy or Full(),
            family,
            SeededNoise(0, shape, family.chunk_frames),
            start,
            on_step=on_step,
            steps=steps,
            still=stills,
        )
    )
    return list(chunks), recorder.calls


def contexts(calls: list[Call]) -> list[list[int]]:
    """What a head saw in front of each chunk, in its first denoising call."""
    return [call.held[0] for call in calls if call.output and call.timestep == 1000]


def positions(calls: list[Call]) -> list[int]:
    """First position of each chunk."""
    return [call.positions[0] for call in calls if call.output and call.timestep == 1000]


# -- levels ----------------------------------------------------------------------------------------------------------


def krea_timesteps(count: int, strength: float = 1.0) -> list[float]:
    """As the public server makes them: whole steps cut down from a line, looked up in the table with a 0 behind it."""
    steps = torch.linspace(1000 * strength, 0, count, dtype=torch.float32).to(torch.long)
    u = torch.linspace(1, 0, 1001)[:-1]
    padded = torch.cat((5 * u / (1 + 4 * u) * 1000, torch.zeros(1)))
    return padded[1000 - steps].tolist()


def test_the_released_five_calls() -> None:
    torch.testing.assert_close(torch.tensor(krea_timesteps(5)), torch.tensor(TIMESTEPS), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        torch.tensor(SCHEDULE.sigmas), torch.tensor((1, 15 / 16, 5 / 6, 5 / 8, 0.0049801)), rtol=0, atol=1e-7
    )
    assert SCHEDULE.timesteps == tuple(TIMESTEPS)


@pytest.mark.parametrize(
    "count, expected",
    [(4, (1000, 908.843, 713.979, 0)), (5, TIMESTEPS), (6, (1000, 952.381, 882.353, 769.231, 555.556, 0))],
)
def test_other_counts_cut_the_line_down_to_whole_steps(count: int, expected: tuple[float, ...]) -> None:
    made = krea_timesteps(count)
    torch.testing.assert_close(torch.tensor(made), torch.tensor(expected), rtol=0, atol=1e-3)
    schedule = Schedule.from_timesteps(made, 5.0)
    levels = torch.tensor([*(t / 1000 for t in made[:-1]), 0.0049801])
    torch.testing.assert_close(torch.tensor(schedule.sigmas), levels, rtol=0, atol=1e-6)
    assert schedule.timesteps is not None and schedule.timesteps[-1] == 0


def test_zero_is_the_last_entry_of_the_table() -> None:
    table = sigma_table(5.0)
    assert nearest_sigma(torch.tensor([0.0]), table).item() == table[-1].item() == pytest.approx(0.0049801, abs=1e-7)


def test_what_every_call_is_given() -> None:
    """Noisy calls at their levels, the last at .00498 and timestep 0; context passes at 0; nothing after a chunk."""
    _, calls = run(9, stills=Stills())
    noisy = list(zip(SCHEDULE.sigmas, (1000.0, 937.5, 833.333, 625.0, 0.0), [True] * 5, strict=True))
    clean = [(0.0, None, False)]
    expected = [*noisy, *clean, *noisy, *clean, *noisy]
    assert [(call.sigma, call.timestep, call.output) for call in calls] == [
        (pytest.approx(sigma), timestep, output) for sigma, timestep, output in expected
    ]


# -- which latents, at which positions -------------------------------------------------------------------------------

E = {frame: 100 + frame for frame in range(40)}
CASES: dict[str, tuple[Family, int, int, list[list[int]]]] = {
    "as released": (krea(), 0, 15, [[], [1, 2, 3], [E[3], 5, 6], [E[6], 8, 9], [E[9], 11, 12]]),
    "frame 0 stays": (krea(sink=1), 0, 12, [[], [1, 2, 3], [1, 5, 6], [1, 8, 9]]),
    "K 1": (krea(1), 0, 9, [[], [1], [E[5]]]),
    "K 1, frame 0 stays": (krea(1, sink=1), 0, 9, [[], [1], [1]]),
    "K 2": (krea(2), 0, 9, [[], [1, 3], [E[4], 6]]),
    "K 4": (krea(4), 0, 12, [[], [1, 2, 3], [1, 4, 5, 6], [E[5], 7, 8, 9]]),
    "K 6": (krea(6), 0, 15, [[], [1, 2, 3], [1, 2, 3, 4, 5, 6], [E[3], 5, 6, 7, 8, 9], [E[6], 8, 9, 10, 11, 12]]),
    "K 6, frame 0 stays": (krea(6, sink=1), 0, 12, [[], [1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 5, 6, 7, 8, 9]]),
    "an image as K latents": (krea(), 3, 15, [[1, 2, 3], [1, 5, 6], [E[6], 8, 9], [E[9], 11, 12]]),
    "an image as one latent": (krea(), 1, 13, [[1], [1, 3, 4], [E[4], 6, 7], [E[7], 9, 10]]),
    "a clip that goes on": (krea(), 7, 13, [[E[4], 6, 7], [E[7], 9, 10]]),
    "a clip that goes on, frame 0 stays": (krea(sink=1), 7, 13, [[1, 6, 7], [1, 9, 10]]),
    "chunks of one frame": (krea(2, chunk=1), 0, 5, [[], [1], [1, 2], [E[1], 3], [E[2], 4]]),
    "a short last chunk": (krea(), 0, 10, [[], [1, 2, 3], [E[3], 5, 6], [E[6], 8, 9]]),
    "a clip shorter than a chunk": (krea(), 0, 2, [[]]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_context_of_every_chunk(name: str) -> None:
    family, given, frames, expected = CASES[name]
    stills = Stills()
    chunks, calls = run(frames, family, given, stills)
    assert contexts(calls) == expected
    assert positions(calls) == [len(context) for context in expected]  # min(c, K): nothing leaves K + F
    assert all(call.held[0] == call.held[1] for call in calls)
    assert torch.equal(torch.cat([c.latent for c in chunks], 2)[0, 0, :, 0, 0], torch.arange(1.0, frames + 1))
    assert stills.asked == [number - 100 for context in expected for number in context if number >= 100]
    assert stills.pushed == list(map(float, range(1, len(stills.pushed) + 1)))
    assert bool(stills.asked) <= bool(stills.pushed)
    assert not (family.sink_frames and stills.pushed), "pixels were made for nothing"
    assert [c.window_full for c in chunks if not c.span.given] == [
        len(context) == min(family.window_frames - family.chunk_frames, frames) for context in expected
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_context_is_read_in_blocks_of_a_chunk(name: str) -> None:
    """Each clean pass sees the blocks before it and no others; calls of one chunk see one and the same context."""
    family, given, frames, expected = CASES[name]
    _, calls = run(frames, family, given, Stills())
    size = family.chunk_frames
    for context in expected:
        read = 0
        while read < len(context):
            call = calls.pop(0)
            stop = min(read + size, len(context))
            assert (call.clean, call.positions) == (True, list(range(read, stop)))
            assert (call.numbers, call.held[0]) == (context[read:stop], context[:read])
            read = stop
        for _ in SCHEDULE.sigmas:
            call = calls.pop(0)
            assert (call.clean, call.held[0]) == (False, context)
            assert call.positions == list(range(len(context), len(context) + len(call.positions)))
    assert not calls


def test_without_a_hook_the_plain_latent_stands_there_and_a_warning_says_so() -> None:
    with pytest.warns(UserWarning, match="begins its context with a re-encoded pixel frame") as caught:
        _, calls = run(12)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert contexts(calls) == [[], [1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    "frames, family, given, stills",
    [
        (6, KREA, 0, None),
        (30, krea(sink=1), 0, None),
        (9, KREA, 3, None),
        (30, KREA, 30, None),
        (30, KREA, 0, Stills()),
    ],
)
def test_no_warning_where_nothing_is_missing(frames: int, family: Family, given: int, stills: Stills | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(frames, family, given, stills)


@pytest.mark.parametrize("given", [0, 3])
def test_the_first_generated_chunk_may_have_levels_of_its_own(given: int) -> None:
    _, calls = run(
        given + 6, given=given, schedule=Schedule((1.0, 0.5), first_sigmas=(1.0, 0.9, 0.5)), last_timestep=500
    )
    assert [call.sigma for call in calls if call.output] == pytest.approx([1.0, 0.9, 0.5, 1.0, 0.5])


def test_re_noising_uses_the_levels_and_the_seed() -> None:
    """x = (1 - sigma) x0 + sigma noise, with noise of the chunk, the step and nothing else."""
    shape = LatentShape(1, 16, 6, 4, 4)
    noise = SeededNoise(0, shape, 3)
    _, calls = run(6)
    for number, span in ((0, Span(0, 0, 3)), (1, Span(1, 3, 6))):
        noisy = [call for call in calls if call.output][5 * number : 5 * number + 5]
        for step, call in enumerate(noisy):
            drawn = noise(step, span)[0].mean((0, 2, 3))
            sigma = SCHEDULE.sigmas[step]
            expected = drawn if step == 0 else (1 - sigma) * -7 + sigma * drawn
            assert call.numbers == pytest.approx(expected.tolist(), abs=1e-5)


# -- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries, given, chunks, reads",
    [
        ({}, 0, [0, 0, 0, 0], [0, 0, 0]),
        ({6: 1}, 0, [0, 0, 1, 1], [0, 0, 1]),
        ({3: 1, 6: 2, 9: 3}, 0, [0, 1, 2, 3], [0, 1, 2]),
        ({4: 1}, 0, [0, 0, 1, 1], [0, 0, 1]),
        ({9: 1}, 0, [0, 0, 0, 1], [0, 0, 0]),
        ({3: 1}, 3, [1, 1, 1], [0, 1, 1]),
        ({2: 1}, 3, [1, 1, 1], [0, 1, 1]),  # a given start is read under the first prompt, however long
    ],
)
def test_a_context_is_read_under_the_prompt_of_the_chunk_before(entries, given, chunks, reads) -> None:
    prompts = PromptSchedule(((0, prompt(0)), *((frame, prompt(n)) for frame, n in entries.items())))
    _, calls = run(12, given=given, stills=Stills(), prompts=prompts)
    assert [call.prompt for call in calls if call.output and call.timestep == 1000] == chunks
    assert [call.prompt for call in calls if call.clean] == reads
    active = [call.prompt for call in calls if call.output]
    assert active == [number for number in chunks for _ in SCHEDULE.sigmas]


# -- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy, seen",
    [
        (SlidingWindow(6, 0), [[], [1, 2, 3], [E[3], 5, 6]]),
        (SlidingWindow(6, 1), [[], [1, 2, 3], [E[3], 5, 6]]),
        (SlidingWindow(5, 1), [[], [1, 3], [E[3], 6]]),
        (SlidingWindow(5, 0), [[], [2, 3], [5, 6]]),
        (SlidingWindow(4, 1), [[], [1], [E[3]]]),
        (SlidingWindow(4, 0), [[], [3], [6]]),
        (SlidingWindow(3, 0), [[], [], []]),
        (SlidingWindow(9, 3), [[], [1, 2, 3], [E[3], 5, 6]]),
    ],
    ids=str,
)
def test_a_window_is_laid_over_the_context(policy: Policy, seen: list[list[int]]) -> None:
    """The chunk stays at its place behind the whole context, whatever a head remembers of it."""
    _, calls = run(9, stills=Stills(), policy=policy)
    assert contexts(calls) == seen
    assert positions(calls) == [0, 3, 3]


@pytest.mark.parametrize("policy", [SlidingWindow(12, 3), SlidingWindow(8, 4), DummyForcing(local_chunks=2)], ids=str)
def test_a_plan_longer_than_the_context_is_refused(policy: Policy) -> None:
    with pytest.raises(PlanError, match="reads 3 frames before every chunk") as refused:
        run(9, stills=Stills(), policy=policy)
    assert "\n" not in str(refused.value)


def test_the_history_of_the_whole_clip_is_never_priced() -> None:
    shape = LatentShape(1, 16, 3000, 4, 4)
    priced = context_shape(Recorder().geometry, shape, KREA)
    assert (priced.clip_frames, priced.pass_frames) == (3, 3)
    assert context_shape(Recorder().geometry, replace(shape, frames=2), KREA).clip_frames == 2


@pytest.mark.parametrize("family", [replace(KREA, window_frames=3), replace(KREA, window_frames=2), krea(sink=2)])
def test_a_family_without_a_context_is_refused(family: Family) -> None:
    with pytest.raises(PlanError, match="'krea'"):
        run(6, family)
    with pytest.raises(PlanError):
        context_frames(family)


# -- bad inputs, cancelling, what stays ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 16, 3, 4, 6), (2, 16, 3, 4, 4), (1, 4, 3, 4, 4)])
def test_a_start_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    clip = LatentShape(1, 16, 9, 4, 4)
    noise, prompts = SeededNoise(0, clip, 3), PromptSchedule.constant(prompt(0))
    with pytest.raises(OutputError, match="expected start latents of shape"):
        next(recompute(Run(Recorder(), clip, SCHEDULE, prompts, Full(), KREA, noise, torch.zeros(shape))))


def test_a_start_longer_than_the_clip_is_refused() -> None:
    with pytest.raises(OutputError, match="no longer than the clip"):
        run(3, given=4)


@pytest.mark.parametrize("shape", [(1, 16, 2, 4, 4), (1, 16, 1, 4, 6), (2, 16, 1, 4, 4), (16, 1, 4, 4)])
def test_a_still_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    class Wrong(Stills):
        def at(self, frame: int) -> Tensor:
            return torch.zeros(shape)

    with pytest.raises(OutputError, match="from the encoder") as refused:
        run(9, stills=Wrong())
    assert "\n" not in str(refused.value)


def test_a_still_comes_over_in_the_latents_dtype() -> None:
    class Wide(Stills):
        def at(self, frame: int) -> Tensor:
            return super().at(frame).double()

    context = ContextLatents(KREA, 0, Wide())
    for chunk in range(2):
        context.add(frame_numbers(3 * chunk, 3 * chunk + 3).expand(1, 16, -1, 4, 4))
        latents = context.before(Span(chunk + 1, 3 * chunk + 3, 3 * chunk + 6))
    assert latents.dtype == torch.float32
    assert latents[0, 0, :, 0, 0].tolist() == [E[3], 5, 6]


def test_on_step_comes_before_every_call_and_names_the_chunk() -> None:
    asked: list[tuple[int, int, int, int]] = []
    recorder = Recorder()

    def on_step(span: Span, step: int) -> None:
        asked.append((span.chunk, span.start, span.part, step))
        assert len(recorder.calls) == len(asked) - 1

    run(9, krea(4), stills=Stills(), on_step=on_step, recorder=recorder)
    chunk = [[(c, 3 * c, 0, step) for step in range(5)] for c in range(3)]
    assert asked == [*chunk[0], (1, 3, 0, 5), *chunk[1], (2, 6, 0, 5), (2, 6, 1, 5), *chunk[2]]


@pytest.mark.parametrize("where", [(0, 0), (0, 4), (1, 5), (1, 2), (2, 5), (2, 4)])
def test_cancelling_leaves_nothing(where: tuple[int, int]) -> None:
    recorder = Recorder()

    def on_step(span: Span, step: int) -> None:
        if (span.chunk, step) == where:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(9, stills=Stills(), on_step=on_step, recorder=recorder)
    gc.collect()
    assert recorder.cache is None or recorder.cache() is None


def test_no_keys_and_values_are_there_while_pixels_are_made() -> None:
    recorder = Recorder()

    class Watching(Stills):
        def push(self, latents: Tensor) -> None:
            assert recorder.cache is not None and recorder.cache() is None
            super().push(latents)

    stills = Watching()
    run(12, stills=stills, recorder=recorder)
    assert len(stills.pushed) == 9  # the last chunk is nobody's past


def test_a_chunk_that_was_handed_out_may_be_overwritten() -> None:
    recorder, shape, stills = Recorder(), LatentShape(1, 16, 12, 4, 4), Stills()
    noise, prompts = SeededNoise(0, shape, 3), PromptSchedule.constant(prompt(0))
    for chunk in recompute(Run(recorder, shape, SCHEDULE, prompts, Full(), KREA, noise, still=stills)):
        with torch.inference_mode():
            chunk.latent.fill_(-1)
    assert contexts(recorder.calls) == [[], [1, 2, 3], [E[3], 5, 6], [E[6], 8, 9]]


def test_a_clip_of_no_frames_is_refused() -> None:
    with pytest.raises(DummyForcingError, match="got 0 latent frames"):
        run(0)


# -- the 14B model ---------------------------------------------------------------------------------------------------


def test_a_14b_file_tells_its_40_heads_in_40_layers() -> None:
    """Shapes alone, as the published file has them: bare tensors, no metadata."""
    tensors = empty_model(WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)).state_dict()
    names = official_names(f"model.{name}" for name in tensors)
    read = geometry({name: tensors[raw.removeprefix("model.")] for name, raw in names.items()})
    assert (read.num_layers, read.num_heads, read.head_dim) == (40, 40, 128)
    assert len(tensors) == 15 + 27 * 40


def test_bare_tensors_under_model_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, KREA.name, KREA)
    model = CausalWan(WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, freq_dim=16))
    state = {f"model.{name}": tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    path = tmp_path / "krea-realtime-video-14b.safetensors"
    save_file(state, path)
    loaded = load_model(path, KREA.name)
    assert (loaded.family, loaded.info.container, loaded.info.dtype) == (KREA, None, torch.bfloat16)
    assert all(torch.equal(tensor, state[f"model.{name}"]) for name, tensor in loaded.model.state_dict().items())


def test_1600_heads_online() -> None:
    """40 layers x 40 heads, half of them dummies: scored in chunk 1, each role's memory from chunk 2 on."""
    torch.manual_seed(0)
    model = CausalWan(WanConfig(dim=320, ffn_dim=16, num_heads=40, num_layers=40, text_dim=8, freq_dim=16))
    shape = LatentShape(1, 16, 9, 2, 2)
    noise, prompts = SeededNoise(0, shape, 3), PromptSchedule.constant(torch.randn(1, 3, 8))
    priced = context_shape(WanDenoiser(model).geometry, shape, KREA)
    chunks = list(
        recompute(Run(WanDenoiser(model), shape, SCHEDULE, prompts, DummyForcing(), KREA, noise, still=Shrunk()))
    )
    assert [chunk.scores is not None for chunk in chunks] == [False, True, False]
    roles = [role for row in chunks[2].plan.roles for role in row]
    assert roles.count("dummy") == 800 and len(roles) == 1600
    frames = {"dummy": 1, "sink": 1, "neighbour": 3}
    assert chunks[2].history_bytes == sum(frames[role] for role in roles) * priced.frame_bytes
    assert chunks[2].resident_bytes == sum(frames[role] + 3 for role in roles) * priced.frame_bytes
    assert all(bool(chunk.latent.isfinite().all()) for chunk in chunks)


class Shrunk(Stills):
    """Stills of a clip of other numbers and one token per frame."""

    def at(self, frame: int) -> Tensor:
        return torch.full((1, 16, 1, 2, 2), 0.1)
