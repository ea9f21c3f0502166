"""The work of the study in pieces that any process can do; what is done lies in a folder and is not done again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import multiprocessing as mp

from dummyforcing_core.cli.common import clip_shape, pick_device, pick_dtype, warn
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.clips.pipeline import Compute, Weights, load_pipeline
from dummyforcing_core.clips.text_features import TextFiles
from dummyforcing_core.evaluation.profiling import Sample
from dummyforcing_core.kv.attention import choose
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.models.checkpoints import load_demo_model, load_model
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import DEMO
from dummyforcing_core.text.demo_text import encode_prompt

from .cases import gap_clips, prompts_of
from .study_measure import Dense, ceiling, make_dense, measure_entry
from .study_policies import LONG_CHUNKS, Entry, Profiles, entries
from .study_profiles import profile_scene, profiles_of, score_clip
from .study_scene import BATCH, Scene, Subject


@dataclass(frozen=True)
class Settings:
    """The command's options. gaps: dark chunks of the evaluation clips, by rising number."""

    model: str
    family: str | None
    text_embedding: Path | None
    size: tuple[int, int] | None
    frames: int
    device: str
    dtype: str | None
    attention: str
    clips: int
    draws: int
    profile_clips: int
    gaps: tuple[int, ...]
    ratios: tuple[float, ...]
    workers: int
    work: Path


def load_subject(settings: Settings) -> Subject:
    """The bundled model, another file of the demo family, or a checkpoint with saved text features."""
    device = pick_device(settings.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype, file = pick_dtype(settings.dtype, device), settings.text_embedding
    if file is not None:
        weights, compute = Weights(settings.model, settings.family), Compute(device, dtype, settings.attention)
        p = load_pipeline(weights, compute, TextFiles(file), warn=warn)
        return Subject(p.name, p.denoiser, p.family, p.encode, p.backend.run, p.fingerprint, None)
    demo = settings.model == DEMO
    loaded = load_demo_model(device, dtype) if demo else load_model(settings.model, DEMO, device, dtype)
    denoise = WanDenoiser(loaded.model)
    attend = choose(settings.attention, device, dtype, denoise.geometry.head_dim).run
    fingerprint = loaded.info.fingerprint
    return Subject(
        settings.model, denoise, loaded.family, lambda p: encode_prompt(p)[0], attend, fingerprint, load_demo_codec()
    )


def make_scenes(subject: Subject, settings: Settings) -> dict[str, Scene]:
    """The demo world's clips by dark gap, or plain clips of --frames under one prompt."""
    if subject.codec is None:
        shape = clip_shape(settings)  # type: ignore[arg-type]
        chunks = shape.frames // subject.family.chunk_frames
        return {"plain": Scene("plain", [[""] * chunks] * settings.clips, (shape.channels, shape.height, shape.width))}
    worlds = {gap: gap_clips(settings.clips, gap) for gap in settings.gaps}
    return {f"gap_{gap}": Scene(f"gap_{gap}", prompts_of(clips), (16, 8, 8), clips) for gap, clips in worlds.items()}


@dataclass(frozen=True)
class Work:
    """One study in progress, in this process."""

    settings: Settings
    subject: Subject
    scenes: dict[str, Scene]

    @property
    def main(self) -> str:
        """The scene in which errors, memory, time and random draws are measured: the middle gap."""
        return list(self.scenes)[len(self.scenes) // 2]

    @property
    def folder(self) -> Path:
        s = self.settings
        return s.work / f"{self.subject.fingerprint}-{s.clips}-{s.profile_clips}-{'_'.join(map(str, s.gaps))}"

    def path(self, *parts: object) -> Path:
        return self.folder / ("-".join(map(str, parts)) + ".pt")

    def samples(self, local_chunks: int) -> list[Sample]:
        """The saved scores of all profile clips."""
        return [
            Sample(*where, HeadScores(mass))
            for clip in range(self.settings.profile_clips)
            for where, mass in _load(self.path("profile", local_chunks, clip))
        ]

    def profiles(self) -> Profiles:
        return profiles_of(self.samples(1), self.samples(LONG_CHUNKS))

    def entries(self) -> list[Entry]:
        s = self.settings
        return entries(self.scenes[self.main].setting(self.subject), self.profiles(), s.ratios, s.draws)

    def ceiling(self) -> dict[str, float]:
        """What the measures say of the truth; empty for models without a world."""
        worlds = [name for name, scene in self.scenes.items() if scene.clips is not None]
        return {f"{key}_{name}": x for name in worlds for key, x in _load(self.path("ceiling", name)).items()}

    def dense(self, name: str) -> Dense:
        """All dense clips of a scene, joined."""
        parts = [_load(self.path("dense", name, first)) for first in range(0, self.settings.clips, BATCH)]
        latents, references = zip(*parts, strict=True)
        joined = [
            [tuple(map(torch.cat, zip(*step, strict=True))) for step in zip(*chunk, strict=True)]
            for chunk in zip(*references, strict=True)
        ]
        return Dense(torch.cat(latents), joined)


@cache
def open_work(settings: Settings) -> Work:
    """The study as this process sees it."""
    torch.set_grad_enabled(False)
    subject = load_subject(settings)
    return Work(settings, subject, make_scenes(subject, settings))


@cache
def _all_dense(settings: Settings) -> dict[str, Dense]:
    work = open_work(settings)
    return {name: work.dense(name) for name in work.scenes}


@cache
def _all_entries(settings: Settings) -> list[Entry]:
    return open_work(settings).entries()


def dense_task(settings: Settings, scene: str, first: int) -> str:
    """One batch of dense clips."""
    work = open_work(settings)
    dense = make_dense(work.subject, work.scenes[scene], first, scene == work.main)
    return _save(work.path("dense", scene, first), (dense.latents, dense.reference))


def profile_task(settings: Settings, local_chunks: int, clip: int) -> str:
    """The scores of one profile clip."""
    work = open_work(settings)
    found = score_clip(work.subject, profile_scene(work.scenes[work.main], settings.profile_clips), clip, local_chunks)
    rows = [((s.clip, s.prompt, s.chunk, s.step), s.scores.mass) for s in found]
    return _save(work.path("profile", local_chunks, clip), rows)


def ceiling_task(settings: Settings, scene: str) -> str:
    """What the measures say of the truth."""
    work = open_work(settings)
    codec, clips = work.subject.codec, work.scenes[scene].clips
    assert codec is not None and clips is not None
    return _save(work.path("ceiling", scene), ceiling(codec, clips))


def entry_task(settings: Settings, number: int) -> dict:
    """Everything about one policy."""
    work, entry = open_work(settings), _all_entries(settings)[number]
    return measure_entry(work.subject, entry, work.scenes, _all_dense(settings), work.main)


def preparations(work: Work) -> list[tuple]:
    """(function, arguments) of what every entry needs and is not there yet."""
    s = work.settings
    dense = [(dense_task, s, name, first) for name in work.scenes for first in range(0, s.clips, BATCH)]
    scores = [(profile_task, s, chunks, clip) for chunks in (1, LONG_CHUNKS) for clip in range(s.profile_clips)]
    truths = [(ceiling_task, s, name) for name, scene in work.scenes.items() if scene.clips is not None]
    files = {dense_task: "dense", profile_task: "profile", ceiling_task: "ceiling"}
    return [task for task in dense + scores + truths if not work.path(files[task[0]], *task[2:]).exists()]


def run(tasks: list[tuple], workers: int) -> Iterator:
    """Results as they come, from this process or from several of one thread each."""
    if workers == 1:
        yield from map(_call, tasks)
        return
    with mp.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_call, tasks)


def _call(task: tuple[Callable, ...]) -> object:
    function, *arguments = task
    return function(*arguments)


def _load(path: Path):
    return torch.load(path, weights_only=True)


def _save(path: Path, value: object) -> str:
    part = path.with_suffix(".part")
    torch.save(value, part)
    part.replace(path)
    return path.name
