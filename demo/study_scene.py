"""What the study runs on: a model, and clips of one kind as batches for the rollout."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.attention import AttentionFn
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import ChunkResult, Run
from dummyforcing_core.models.denoiser import Denoiser
from dummyforcing_core.models.families import Family
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import Policy, Setting
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.transfer import wait_for
from dummyforcing_core.vae.demo_codec import DemoCodec

from .world import Clips

BATCH = 8
SEED = 1000  # clip b of every case is made from the noise of seed SEED + b


@dataclass(frozen=True, eq=False)
class Subject:
    """The model under study. codec: of the demo world, None for other models."""

    name: str
    denoise: Denoiser
    family: Family
    encode: Callable[[str], Tensor]
    attend: AttentionFn
    fingerprint: str
    codec: DemoCodec | None

    def seconds(self) -> float:
        """A clock: this process's own time on the CPU, else wall time once the device has finished."""
        device = self.denoise.geometry.device
        if device.type == "cpu":
            return time.process_time()
        wait_for(device)
        return time.perf_counter()


@dataclass(frozen=True, eq=False)
class Scene:
    """Clips of one length: one prompt per clip and chunk, one frame's latent size. clips: their truth, if known."""

    name: str
    prompts: Sequence[Sequence[str]]
    size: tuple[int, int, int]  # channels, rows, columns
    clips: Clips | None = None

    def setting(self, subject: Subject) -> Setting:
        """What a policy sees of these clips."""
        model, chunk = subject.denoise.geometry, subject.family.chunk_frames
        return Setting(model.layers, model.heads, subject.family, chunk, chunk * len(self.prompts[0]))

    def case(self, subject: Subject, first: int, count: int) -> "Case":
        """Clips first .. first + count - 1 as one batch."""
        chosen, chunk = self.prompts[first : first + count], subject.family.chunk_frames
        shape = LatentShape(len(chosen), self.size[0], chunk * len(chosen[0]), *self.size[1:])
        contexts: list[Tensor] = []
        for spoken in zip(*chosen, strict=True):
            context = torch.cat([subject.encode(prompt) for prompt in spoken])
            # The same tensor again means the same prompt: a repeat is no switch.
            contexts.append(contexts[-1] if contexts and torch.equal(contexts[-1], context) else context)
        noise = SeededNoise(SEED + first, shape, chunk, subject.denoise.geometry.device)
        return Case(first, shape, PromptSchedule.per_chunk(contexts, chunk), noise)


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of clips, ready for the rollout."""

    first: int
    shape: LatentShape
    prompts: PromptSchedule
    noise: SeededNoise

    @property
    def clips(self) -> slice:
        return slice(self.first, self.first + self.shape.batch)

    def run(self, subject: Subject, policy: Policy, start: Tensor | None = None) -> Run:
        """What is sampled of these clips under a policy."""
        family, schedule = subject.family, subject.family.schedule
        return Run(
            subject.denoise, self.shape, schedule, self.prompts, policy, family, self.noise, start, subject.attend
        )


def cases(subject: Subject, scene: Scene, batch: int) -> Iterator[Case]:
    """All clips of a scene, in batches."""
    for first in range(0, len(scene.prompts), batch):
        yield scene.case(subject, first, batch)


def make(subject: Subject, case: Case, policy: Policy, start: Tensor | None = None) -> list[ChunkResult]:
    """The clips under a policy; `start` is chunk 0, which is the same under every policy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # full caches beyond the trained range are part of the study
        return list(rollout(case.run(subject, policy, start)))
