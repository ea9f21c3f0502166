"""Lines of a schedule as people write them: a time or a range of times, then what is seen from then on.

A time is a clock (`0:05`, `00:00:05.5`), a number with a unit (`5s`, `1m30s`, `5秒`) or, before a bar, a number alone.
Between it and the prompt stands a bar, another mark, or a space; full-width signs mean the same. A number alone is
never taken off a prompt ("3 cats play"), nor is a clock with one digit ("16:9 cinema") unless a mark follows.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from ..errors import DummyForcingError, shown
from ..rates import clock
from ..reading import lines_of

# Chinese keyboards write these; one letter stands for one, so that places in a line stay what they are.
_ASCII = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20}
# Their commas and stops stand after a time without a space, where a comma of other keyboards could belong to a number.
_ASCII |= {0xFF0C: ord("="), 0x3001: ord("="), 0x3002: ord("=")}

_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,6})?"
_CLOCK = r"(?:[0-9]{1,6}:)?[0-9]{1,6}:[0-9]{1,2}(?:\.[0-9]{1,6}|,[0-9]{3})?"
_UNITS = (
    r"(?:(?:[0-9]{1,6} ?(?:h|小时) ?)?(?:[0-9]{1,6} ?(?:m|min|分) ?)?"
    rf"{_NUMBER} ?(?:seconds?|secs?|s|秒钟?)|[0-9]{{1,6}} ?(?:minutes?|mins?|分钟?半?))"
)
_EDGE = r"(?![A-Za-z0-9_]|[.:,][0-9])"
_BULLET = r"(?:[-*+>]\s+|[•·●▪]\s*|[0-9]{1,3}[.)]\s+(?=[\[(<【]?[0-9]))?"
_WORDS = r"(?:(?:at\b|from\b|time\b|第|(?P<since>从)|在|(?P<lead>t\s*=|@))\s*)?"
_FRONT = rf"\s*{_BULLET}{_WORDS}(?P<bracket>[\[(<【「『《])?"
_TO = r"\s*(?:-+>?|[\u2013\u2014~→至到]|to\b)\s*"
_MARK = r"\s*(?:[-=]>|[:=→]|[-\u2013\u2014,.;](?![!-~]))"
_SHUT = r"\])>】」』》"
_BEHIND = (
    rf"(?(since)(?:开始|起)?)(?:\s*[{_SHUT}])?"
    rf"(?:(?P<bar>\s*[|│¦\u2223‖])|(?P<mark>{_MARK})|(?<=[{_SHUT}])|(?![!-~]))"
)


def _form(start: str, end: str = "") -> re.Pattern[str]:
    span = rf"(?P<start>{start}){_EDGE}" + (rf"{_TO}(?P<end>{end}){_EDGE}" if end else "(?P<end>)")
    return re.compile(_FRONT + span + _BEHIND, re.IGNORECASE)


# Kind of time -> how a line with it begins, ranges first. A range's ends are of one kind: "0:00 - 5 dogs" is none.
_FORMS = (
    ("clock", _form(_CLOCK, _CLOCK)),
    ("clock", _form(_CLOCK)),
    ("units", _form(rf"(?:{_UNITS}|{_NUMBER})", _UNITS)),
    ("units", _form(_UNITS)),
    ("number", _form(_NUMBER, _NUMBER)),
    ("number", _form(_NUMBER)),
)
# What is no time that can be read, and was meant as one: 0 in front, a bar somewhere, {"0": "a cat"} of other nodes,
# frame 0, 0 ms, scenes with a clock, 零秒. Of "24 frames of a film" and 十分 (very) nothing is one.
_MEANT = re.compile(
    r"\s*(?:[\[(<【]?[-+]?0+(?::[0-9]+|\.0+)*(?![\w.])|[^|]*\||\{?\s*[\"'][0-9]+[\"']\s*:|frames?\s*[0-9]+\s*:|"
    r"0+\s*(?:f|frames?|ms)\b|(?:scene|shot|镜头)\s*[0-9]+\W{0,3}[0-9]+:[0-9]{2}|[零〇](?:秒|分))",
    re.IGNORECASE,
)
# Behind a prompt: the next line of a schedule that was written in one.
_ANOTHER = re.compile(rf"[|;]\s*(?:{_CLOCK}|{_NUMBER}s)(?=[\s|])|(?:{_CLOCK}|{_UNITS})\s*\|", re.IGNORECASE)
HOW = "write TIME | PROMPT, e.g. 0:15 | a cat"


@dataclass(frozen=True)
class TimedLine:
    """One prompt of a schedule.

    number  -- of its line in the text, from 1
    seconds -- from which it is active; `until` is the end of a range, if one was written
    sure    -- whether the line alone shows that times were meant
    """

    number: int
    seconds: float
    until: float | None
    prompt: str
    sure: bool

    @property
    def place(self) -> str:
        """How messages name it."""
        return f"line {self.number} ({clock(self.seconds)})"


def written_lines(text: str) -> list[tuple[int, str]]:
    """(number, line) of every line that counts: blank ones and those that begin with # do not."""
    text = text.removeprefix("\ufeff")  # of editors on Windows, and of what is pasted from them
    lines = ((number, line.strip()) for number, line in enumerate(lines_of(text), start=1))
    return [(number, line) for number, line in lines if line and not line.translate(_ASCII).startswith("#")]


def has_times(text: str) -> bool:
    """Whether a text is meant as a schedule; else it is one prompt, whatever numbers it begins with."""
    lines = written_lines(text)
    read = [(_read(number, line), line.translate(_ASCII)) for number, line in lines]
    first = read[0][0] if read else None
    return (first is not None and first.seconds == 0) or any(
        timed.sure if timed else _MEANT.match(line) for timed, line in read
    )


def timed_lines(text: str) -> list[TimedLine]:
    """The prompts of a schedule in order, the first from 0:00 on; DummyForcingError names lines and times."""
    lines = [_timed(number, line) for number, line in written_lines(text)]
    if not lines:
        raise DummyForcingError(f"expected a prompt, got an empty text; {HOW}")
    if lines[0].seconds > 0.1:  # what is less begins with the first latent frame
        start = clock(lines[0].seconds)
        raise DummyForcingError(
            f"expected a first prompt at 0:00, got {start} on line {lines[0].number}; add one for the beginning, or "
            f"write 0:00 | in front, if {start} belongs to the prompt"
        )
    for before, after in pairwise(lines):
        _check_pair(before, after)
    return lines


def _timed(number: int, line: str) -> TimedLine:
    timed = _read(number, line)
    if timed is None:
        raise DummyForcingError(f"line {number} begins with no time: '{shown(line)}'; {HOW}")
    if not timed.prompt:
        raise DummyForcingError(f"{timed.place} has no prompt; {HOW}")
    later = (found[0] for found in _ANOTHER.finditer(timed.prompt.translate(_ASCII)) if found.start())
    if second := next(later, None):
        raise DummyForcingError(f"{timed.place} holds a second time, '{shown(second)}'; give it a line of its own")
    if timed.until is not None and timed.until <= timed.seconds:
        raise DummyForcingError(f"{timed.place} ends at {clock(timed.until)}, before it began; {HOW}")
    return timed


def _read(number: int, line: str) -> TimedLine | None:
    """The line's time and prompt; None if it begins with no time, or with one that may belong to the prompt."""
    plain = line.translate(_ASCII)
    for kind, form in _FORMS:
        match = form.match(plain)
        if match is None:
            continue
        bar, mark, bracket, lead = (match[part] is not None for part in ("bar", "mark", "bracket", "lead"))
        telling = kind == "units" or (kind == "clock" and re.search(r":[0-9]{2}(?![0-9:])", match["start"]) is not None)
        if bar or mark or telling or lead or (bracket and kind != "number"):
            until = _seconds(number, match["end"]) if match["end"] else None
            sure = bar or lead or (kind == "clock" and telling) or (kind == "units" and (mark or bracket))
            return TimedLine(number, _seconds(number, match["start"]), until, line[match.end() :].strip(), sure)
    return None


def _seconds(number: int, time: str) -> float:
    parts = [float(part) for part in re.findall(_NUMBER, time.replace(",", "."))]
    if re.search(r"m|分", time, re.IGNORECASE) and not re.search(r"s|秒", time, re.IGNORECASE):
        parts.append(30.0 if time.endswith("半") else 0.0)
    if any(part >= 60 for part in parts[1:]):
        right = clock(sum(part * 60**power for power, part in enumerate(reversed(parts))))
        raise DummyForcingError(f"line {number}: {time} has more than 59 minutes or seconds; write {right} if meant so")
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def _check_pair(before: TimedLine, after: TimedLine) -> None:
    if after.seconds == before.seconds:
        raise DummyForcingError(
            f"lines {before.number} and {after.number} both start at {clock(after.seconds)}; give each its own time"
        )
    if after.seconds < before.seconds:
        raise DummyForcingError(f"expected rising times, got {after.place} after {before.place}; sort the lines")
    if before.until is not None and before.until != after.seconds:
        raise DummyForcingError(
            f"{before.place} ends at {clock(before.until)}, and {after.place} is the next; a prompt holds until the "
            "next one: let them meet, or leave the ends out"
        )
