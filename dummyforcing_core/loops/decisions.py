"""What is decided of a clip's memory while it is made: what is observed, what follows, which frames are marked.

`Decisions` asks the run's policy and its bank's rule; `Resumed` does so behind chunks that are made; `Logged` answers
with what was said before, so that the same cache is made again without observing anything.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import PlanError
from ..geometry import Span
from ..kv.bank import Marks
from ..kv.plan import HeadPlan
from ..policies.base import Observing, Seen
from .run import MemoryLog, Run


class Decisions:
    """Of a run that is being made."""

    def __init__(self, run: Run, plan: HeadPlan):
        self._run, self._setting = run, run.setting
        self._marks = Marks(plan.bank, plan.bank_frames) if plan.bank is not None else None
        self._observed: list[int] = []
        self._keys: list[Tensor] = []  # means over a frame's tokens, (B, frames, heads * D) per layer of the pass

    @property
    def reads_keys(self) -> bool:
        """Whether `see_keys` has to be called in clean passes."""
        return self._marks is not None and self._marks.rule.reads_keys

    def begin(self, span: Span, switched: bool) -> tuple[bool, frozenset[int]]:
        """Whether heads are observed in this chunk, and what is marked as it begins."""
        if switched and self._marks is not None:
            self._marks.switched()
        policy = self._run.policy
        observed = not span.given and policy.observes(span, self._setting, self._observed, switched)
        if observed:
            self._observed.append(span.chunk)
        return observed, self._marked

    def recaches(self, span: Span, switched: bool) -> bool:
        """Whether the window is read again before this chunk."""
        return switched and self._run.recaches

    def observation(self) -> Observing | None:
        """An empty observation of this chunk; None where nothing has to be seen."""
        return self._run.policy.observation(self._setting, self._run.denoise.project)

    def replanned(self, span: Span, observation: Observing | None) -> tuple[HeadPlan, Seen | None]:
        """The plan that follows from what was seen in this chunk."""
        assert observation is not None
        seen = observation.result()
        return self._run.policy.replan(seen, self._setting), seen

    def see_keys(self, frames: int, k: Tensor) -> None:
        """Keys (B, L, H, D) of a layer in a clean pass over so many frames; all layers' at once would fill a card."""
        self._keys.append(k.float().unflatten(1, (frames, -1)).mean(2).flatten(2))

    def committed(self, span: Span, latent: Tensor) -> frozenset[int]:
        """What is marked once a clean pass over latent (B, C, span.frames, h, w) is history."""
        if self._marks is not None:
            keys = torch.cat(self._keys, dim=2) if self._keys else None
            self._keys.clear()
            self._marks.committed(range(span.start, span.stop), latent, keys)
        return self._marked

    @property
    def _marked(self) -> frozenset[int]:
        return frozenset() if self._marks is None else self._marks.frames


class Resumed(Decisions):
    """Of a run that goes on behind chunks that are made: of those the log is asked; what is marked follows. Where the
    log is another memory's, it is not asked."""

    def __init__(self, run: Run, plan: HeadPlan):
        super().__init__(run, plan)
        self._log = run.made.log
        self._known = False  # whether the chunk at hand is one of them

    def begin(self, span: Span, switched: bool) -> tuple[bool, frozenset[int]]:
        self._known = span.chunk < len(self._log) and not self._run.is_fresh(span)
        observed, marked = super().begin(span, switched)
        if not self._known:
            return observed, marked
        if observed != self._log[span.chunk].observed:
            raise PlanError(
                f"expected heads to be observed in the chunks of the log, got another answer for chunk {span.chunk}; "
                "it is of another version or another clip: make the clip anew"
            )
        return observed, marked

    def observation(self) -> Observing | None:
        return None if self._known else super().observation()

    def replanned(self, span: Span, observation: Observing | None) -> tuple[HeadPlan, Seen | None]:
        return (self._log[span.chunk].plan, None) if self._known else super().replanned(span, observation)


class Logged(Decisions):
    """Of a clip that was made before. Nothing is observed, and no content is looked at."""

    reads_keys = False

    def __init__(self, log: Sequence[MemoryLog]):
        self._log = log
        self._left: list[frozenset[int]] = []

    def begin(self, span: Span, switched: bool) -> tuple[bool, frozenset[int]]:
        entry = self._log[span.chunk]
        marked, *self._left = entry.marked
        return entry.observed, marked

    def recaches(self, span: Span, switched: bool) -> bool:
        return self._log[span.chunk].recached

    def observation(self) -> None:
        return None

    def replanned(self, span: Span, observation: Observing | None) -> tuple[HeadPlan, None]:
        return self._log[span.chunk].plan, None

    def committed(self, span: Span, latent: Tensor) -> frozenset[int]:
        return self._left.pop(0)
