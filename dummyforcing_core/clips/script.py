"""Prompts over time as people write them: lines of text, or the interactive JSONL of LongLive."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from ..errors import DummyForcingError, shown
from ..geometry import TEMPORAL
from ..rates import OWN_RATE
from ..reading import lines_of, parse_json, read_text
from .timed_lines import has_times, timed_lines, written_lines


@dataclass(frozen=True)
class Script:
    """(first latent frame, prompt) lines by rising frame, the first at 0.

    blend_chunks -- chunks over which a switch goes from one prompt to the next; 0 switches at once
    """

    lines: tuple[tuple[int, str], ...]
    blend_chunks: int = 0

    def __post_init__(self) -> None:
        if self.blend_chunks < 0:
            raise DummyForcingError(
                f"expected a blend over 0 chunks or more, got {self.blend_chunks}; 0 is a hard switch"
            )
        if not all(prompt.strip() for _, prompt in self.lines):
            raise DummyForcingError("expected a prompt, got an empty text; say what is to be seen")
        starts = [start for start, _ in self.lines]
        if not starts or starts[0] != 0:
            raise DummyForcingError(
                f"expected a first prompt at latent frame 0, got starts {starts}; give one for the beginning"
            )
        if starts != sorted(set(starts)):
            raise DummyForcingError(
                f"expected prompts in rising order, got starts at latent frames {starts}; sort them"
            )

    @classmethod
    def constant(cls, prompt: str) -> "Script":
        """One prompt for the whole clip."""
        return cls(((0, prompt),))

    @classmethod
    def per_chunk(cls, prompts: Sequence[str], chunk_frames: int) -> "Script":
        """One prompt per chunk; a repeat of the last is no switch."""
        lines = enumerate(prompts)
        return cls(tuple((i * chunk_frames, p) for i, p in lines if i == 0 or p != prompts[i - 1]))

    @classmethod
    def parse(cls, text: str, fps: Fraction = OWN_RATE) -> "Script":
        """Lines `0:15 | prompt`: from that minute and second of a video of `fps` on, as `timed_lines` reads it."""
        lines = timed_lines(text)
        starts = [round(line.seconds * fps / TEMPORAL) for line in lines]
        for (before, start), (after, other) in pairwise(zip(lines, starts, strict=True)):
            if start == other:
                raise DummyForcingError(
                    f"{before.place} and {after.place} are too close to be told apart; leave "
                    f"{float(TEMPORAL / fps):g} seconds between them"
                )
        return cls(tuple((start, line.prompt) for start, line in zip(starts, lines, strict=True)))

    @classmethod
    def of_text(cls, text: str, fps: Fraction = OWN_RATE) -> "Script":
        """A schedule if any line of the text has a time, else one prompt of all its lines."""
        if has_times(text):
            return cls.parse(text, fps)
        return cls.constant("\n".join(line for _, line in written_lines(text)))

    @classmethod
    def parse_jsonl(cls, text: str, switch_frames: Sequence[int]) -> list["Script"]:
        """Lines {"prompts": [p0 .. pn]}, one clip each; prompt i + 1 starts at latent frame switch_frames[i]."""
        scripts = []
        for number, line in enumerate(lines_of(text), start=1):
            if not line.strip():
                continue
            try:
                entry = parse_json(line)
            except ValueError as error:
                raise DummyForcingError(f"line {number} is {shown(error)}; write one object per line") from error
            prompts = entry.get("prompts") if isinstance(entry, dict) else None
            if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
                raise DummyForcingError(
                    f'line {number} is no object with "prompts", a list of texts: {shown(line, 60)}'
                )
            if len(prompts) != len(switch_frames) + 1:
                raise DummyForcingError(
                    f"line {number}: expected {len(prompts) - 1} switch frames for its {len(prompts)} prompts, got "
                    f"{len(switch_frames)}: {list(switch_frames)}; give one for every prompt but the first"
                )
            scripts.append(cls(tuple(zip([0, *switch_frames], prompts, strict=True))))
        return scripts

    @classmethod
    def read(cls, path: Path, switch_frames: Sequence[int] = (), fps: Fraction = OWN_RATE) -> list["Script"]:
        """The clips of a file: one in the text form, whose times are those of a video of `fps`, one per line of a
        .jsonl."""
        text = read_text(path, "schedule", DummyForcingError)
        try:
            jsonl = path.suffix.lower() == ".jsonl"
            if switch_frames and not jsonl:
                raise DummyForcingError("switch frames belong to a .jsonl schedule; a text schedule has its own times")
            scripts = cls.parse_jsonl(text, switch_frames) if jsonl else [cls.parse(text, fps)]
        except DummyForcingError as error:
            raise DummyForcingError(f"{path}: {error}") from error
        if not scripts:
            raise DummyForcingError(f"{path} holds no clip; write one object per line")
        return scripts

    @property
    def prompts(self) -> list[str]:
        """The prompts in order."""
        return [prompt for _, prompt in self.lines]

    @property
    def title(self) -> str:
        """The prompts in one line."""
        return "  |  ".join(self.prompts)
