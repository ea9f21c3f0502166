"""Takes of which a byte is another or the end is gone, in every region of every file: found, one line, and either made
whole by going on or refused as they are; a clip that comes out is the clip."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dummyforcing_core.takes.features import FEATURES
from dummyforcing_core.takes.pictures import PICTURES, name_of
from dummyforcing_core.takes.records import MAGIC, scan
from dummyforcing_core.takes.snapshot import SNAPSHOT
from dummyforcing_core.takes.take import EVENTS, LATENTS, MANIFEST, Take, events_of
from tests.unit.conftest import Run

CLIP = ("--prompt", "a red circle", "--frames", "33", "--policy", "window", "--crf", "40", "--snapshot-every", "2")
HEAD = 16  # bytes of a record before its payload: mark, length, checksum
PICTURE = f"{PICTURES}/{name_of(1)}"


@dataclass(frozen=True)
class Kept:
    """A finished take and its video, which nobody changes."""

    folder: Path
    video: bytes
    latents: bytes


def generate(run: Run, folder: Path):
    files = ("--take", folder / "take", "--out", folder / "clip.mp4")
    return run("generate", *CLIP, *files)


@pytest.fixture(scope="module")
def kept(run, tiny_demo, tmp_path_factory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    assert generate(run, folder).code == 0
    return Kept(folder / "take", (folder / "clip.mp4").read_bytes(), (folder / "take" / LATENTS).read_bytes())


def record_regions(path: Path) -> Iterator[tuple[str, int]]:
    """Places in a file of records: of its beginning, and of the first, a middle and the last record."""
    yield from (("magic", 2), ("version", len(MAGIC) - 1))
    records = scan(path).records
    for number in sorted({0, len(records) // 2, len(records) - 1}):
        start, length = records[number].start, records[number].length
        places = {"mark": -HEAD, "length": 4 - HEAD, "checksum": 12 - HEAD, "first": 0, "header": min(40, length - 9)}
        for name, place in {**places, "tensor": length - 9, "last": length - 1}.items():
            yield f"{name} of {number}", start + place


def text_regions(path: Path) -> Iterator[tuple[str, int]]:
    data = path.read_bytes()
    yield from ((f"byte {at}", at) for at in range(0, len(data), -(-len(data) // 23)))


REGIONS: dict[str, Callable[[Path], Iterator[tuple[str, int]]]] = {
    MANIFEST: text_regions,
    LATENTS: record_regions,
    FEATURES: record_regions,
    SNAPSHOT: record_regions,
    EVENTS: text_regions,
    PICTURE: text_regions,
}
CHECKED = (LATENTS, FEATURES)  # what a clip is gone on with from, under checksums


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def torn(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def one_line(result) -> bool:
    return result.code == 2 and result.err.count("error:") == 1 and "Traceback" not in result.err


def gone_on(run: Run, kept: Kept, folder: Path, name: str) -> str:
    """What came of a damaged take: "made whole", or "refused" and left as it is; all else is wrong."""
    damaged = (folder / "take" / name).read_bytes()
    result = generate(run, folder)
    if result.code:
        assert one_line(result), result
        assert (folder / "take" / name).read_bytes() == damaged
        shutil.copy(kept.folder / name, folder / "take" / name)
        assert generate(run, folder).code == 0
    assert (folder / "take" / LATENTS).read_bytes() == kept.latents
    assert (folder / "clip.mp4").read_bytes() == kept.video
    assert run("take", "check", folder / "take").code == 0
    assert [event["event"] for event in events_of(folder / "take")][-1] in ("taken up", "finished")
    return "refused" if result.code else "made whole"


@pytest.mark.parametrize("how", [flipped, torn])
@pytest.mark.parametrize("name", REGIONS)
def test_damage_in_every_region_is_found(
    run, kept, tmp_path: Path, name: str, how: Callable[[Path, int], None]
) -> None:
    """`take check` reads all of it."""
    missed, places = [], list(REGIONS[name](kept.folder / name))
    for region, at in places:
        shutil.copytree(kept.folder, tmp_path / "take", dirs_exist_ok=True)
        how(tmp_path / "take" / name, at)
        result = run("take", "check", tmp_path / "take")
        assert "Traceback" not in result.err and (result.code != 2 or one_line(result)), (region, result)
        missed += [region] if result.code == 0 else []
        assert name != SNAPSHOT or "is not used" in result.err, region
    assert len(places) >= 9
    if name in CHECKED or (name, how) == (MANIFEST, torn):
        assert missed == []
    elif name != MANIFEST:  # it has no checksum: a flipped bit of a name or number is met when it is gone on with
        assert len(missed) == len(places)  # nothing depends on these


@pytest.mark.parametrize("how", [flipped, torn])
@pytest.mark.parametrize("name", REGIONS)
def test_a_damaged_take_is_gone_on_with_or_left_alone(
    run, kept, tmp_path: Path, name: str, how: Callable[[Path, int], None]
) -> None:
    came, places = set(), list(REGIONS[name](kept.folder / name))
    for number, (_, at) in enumerate(places[:: 2 if (name, how) == (MANIFEST, flipped) else max(len(places) // 4, 1)]):
        folder = tmp_path / str(number)
        shutil.copytree(kept.folder, folder / "take")
        how(folder / "take" / name, at)
        came.add(gone_on(run, kept, folder, name))
    assert ("made whole" in came) == ((name, how) != (MANIFEST, torn))
    assert name in (MANIFEST, LATENTS, FEATURES) or came == {"made whole"}


def test_latents_that_end_early_are_told_of_though_nothing_is_torn(run, kept, tmp_path: Path) -> None:
    """It says that it is finished: nobody may take it for whole."""
    shutil.copytree(kept.folder, tmp_path / "take")
    last = scan(tmp_path / "take" / LATENTS).records[-1]
    torn(tmp_path / "take" / LATENTS, last.start - HEAD)
    assert run("take", "check", tmp_path / "take").code == 1
    result = generate(run, tmp_path)
    assert result.code == 0 and "lacks latent frames from 6 on" in result.err
    assert "2 chunks are there already" in result.err and "only the video is written again" not in result.err
    assert (tmp_path / "take" / LATENTS).read_bytes() == kept.latents and not Take(tmp_path / "take").missing
