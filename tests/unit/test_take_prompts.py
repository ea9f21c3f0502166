"""What a take keeps of its prompts: features once each, texts per chunk; another encoder's numbers, another prompt."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dummyforcing_core.errors import DummyForcingError, OutputError
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.table import sample
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.takes.features import FEATURES, FeatureWriter, key_of, read_features
from dummyforcing_core.takes.pictures import LONGEST_PX, PICTURES, name_of, write_picture
from dummyforcing_core.takes.prompts import check_texts, prompts_behind, prompts_of
from dummyforcing_core.takes.records import scan
from dummyforcing_core.takes.take import Manifest, Recording, Take
from tests.property.test_policy_matrix import FAMILIES, POLICY_CASES, VARIANTS, clip

SWITCH = 6


def said(frame: int) -> str:
    return "a red ball" if frame < SWITCH else "a blue box"


def told(run, *contexts):
    return replace(run, prompts=PromptSchedule(((0, contexts[0]), (SWITCH, contexts[1]))))


def prompts(run, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    like = run.prompts.at(0)
    return [torch.randn(like.shape, generator=drawn).to(like.dtype) for _ in range(2)]


def recorded(folder: Path, run, stop: int | None = None) -> Recording:
    take = Recording.begin(folder, Manifest({}, {}, run.shape))
    for chunk in sample(run):
        take.add(chunk, prompts_of(run, chunk, said))
        if len(take.entries) == stop:
            break
    return take


@pytest.fixture(params=["chunks", "rolling"])
def run(request):
    made = clip(POLICY_CASES["window narrow"], FAMILIES[request.param], VARIANTS["plain"])
    return told(made, *prompts(made))


def test_features_are_kept_once_and_come_back_bit_for_bit(run, tmp_path: Path) -> None:
    recorded(tmp_path, run)
    take = Take(tmp_path)
    assert len(scan(tmp_path / FEATURES).records) == 2 < len(take.entries)
    for entry in take.entries:
        one = entry.heard[0]
        assert (one.frame, one.text) == (entry.span.start, said(entry.span.start))
        assert torch.equal(take.features(entry, one), run.prompts.at(one.frame))
        assert len(entry.heard) == 1 + entry.window


def test_the_same_prompts_are_used_as_they_are(run, tmp_path: Path) -> None:
    take = recorded(tmp_path, run, 3)
    copies = told(run, *(context.clone() for context in prompts(run)))
    assert prompts_behind(take, copies.prompts, said) is copies.prompts


def test_numbers_of_another_encoder_give_way_to_the_takes(run, tmp_path: Path) -> None:
    take = recorded(tmp_path, run, 3)
    other = told(run, *prompts(run, seed=1))
    with pytest.warns(UserWarning, match="gives other numbers"):
        recalled = prompts_behind(take, other.prompts, said)
    for frame in (0, SWITCH):
        assert torch.equal(recalled.at(frame), run.prompts.at(frame))
    assert recalled.may_switch and recalled.at(SWITCH) is recalled.at(SWITCH + 3)


def test_another_prompt_is_named(run, tmp_path: Path) -> None:
    take = recorded(tmp_path, run, 3)
    with pytest.raises(DummyForcingError, match=r"expected the prompt 'a red ball' for latent frame 0"):
        check_texts(take, 3, lambda frame: "a green ball")
    other = told(run, *prompts(run, seed=1))
    for text_at in (lambda frame: "", lambda frame: "a green ball"):
        with pytest.raises(DummyForcingError, match="expected the prompt of latent frame 0"):
            prompts_behind(take, other.prompts, text_at)


def test_prompts_change_behind_the_chunks_that_are_there_and_behind_a_rolling_window(run, tmp_path: Path) -> None:
    take = recorded(tmp_path, run, 1)
    last = take.entries[0].heard[-1].frame
    assert last == 3 * take.entries[0].window  # of chunks of 3 frames

    def changed(behind: int):
        return lambda frame: said(frame) if frame <= behind else "a green ball"

    check_texts(take, 1, changed(last))
    if last:
        with pytest.raises(DummyForcingError, match=f"behind latent frame {last} only"):
            check_texts(take, 1, changed(last - 3))


def test_features_that_are_lost_or_damaged_are_not_used(run, tmp_path: Path) -> None:
    recorded(tmp_path, run, 3)
    take = Take(tmp_path)
    one = take.entries[0].heard[0]
    data = bytearray((tmp_path / FEATURES).read_bytes())
    data[100] ^= 1
    (tmp_path / FEATURES).write_bytes(data)
    assert take.features(take.entries[0], one) is None
    with pytest.raises(DummyForcingError, match="expected the prompt of latent frame 0"):
        prompts_behind(take, told(run, *prompts(run, seed=1)).prompts, said)
    (tmp_path / FEATURES).unlink()
    assert take.features(take.entries[0], one) is None
    assert prompts_behind(take, run.prompts, said) is run.prompts


def test_a_writer_goes_on_behind_what_is_whole(tmp_path: Path) -> None:
    first, second = torch.randn(1, 4, 8), torch.randn(1, 4, 8).bfloat16()
    key = FeatureWriter(tmp_path).add(first)
    with (tmp_path / FEATURES).open("ab") as file:
        file.write(b"TAKE torn")
    again = FeatureWriter(tmp_path)
    assert again.add(first.clone()) == key == key_of(first) and again.add(second) != key
    assert torch.equal(read_features(tmp_path, key), first)
    assert torch.equal(read_features(tmp_path, key_of(second)), second)
    assert key_of(first) != key_of(first.reshape(1, 8, 4)) != key_of(first.double())


@pytest.mark.parametrize(
    "heard",
    [3, [3], [["a", "b", ""]], [[0, 1, ""]], [[0, "a", "../../etc/passwd"]], [[0, "a", "", 1]], [[0.5, "a", ""]]],
)
def test_hostile_prompts_of_a_chunk_are_one_line(run, tmp_path: Path, heard, monkeypatch) -> None:
    from dummyforcing_core.takes import take as module

    take, write = recorded(tmp_path, run, 1), module.json.dumps
    monkeypatch.setattr(module.json, "dumps", lambda told: write({**told, "heard": heard}))
    for chunk in sample(replace(run, made=take.made())):
        take.add(chunk)
        break
    with pytest.raises(OutputError, match=r"chunk 1 of the take .* is damaged"):
        Take(tmp_path)


def test_a_picture_per_chunk(run, tmp_path: Path) -> None:
    take = recorded(tmp_path / "parent", run, 2)
    take.add_picture(1, np.full((480, 832, 3), 200, np.uint8))
    with Image.open(io.BytesIO(take.picture(1))) as image:
        assert image.size == (LONGEST_PX, 148) and abs(image.getpixel((9, 9))[0] - 200) < 3
    assert take.picture(0) is None
    branch = Recording.begin(tmp_path / "branch", Manifest({}, {}, run.shape, parent=("parent", 2)))
    assert branch.picture(1) == take.picture(1)


@pytest.mark.parametrize("kind", ["no jpeg", "huge", "png", "link", "folder", "large sides"])
def test_what_is_no_picture_is_none(run, tmp_path: Path, kind: str) -> None:
    take = recorded(tmp_path / "take", run, 1)
    write_picture(tmp_path / "take", 0, np.zeros((8, 8, 3), np.uint8))
    path = tmp_path / "take" / PICTURES / name_of(0)
    assert take.picture(0)
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "outside.jpg").write_bytes(data)
        path.symlink_to(tmp_path / "outside.jpg")
    elif kind == "folder":
        path.mkdir()
    elif kind in ("png", "large sides"):
        Image.new("RGB", (8, 8) if kind == "png" else (1000, 8)).save(path, "PNG" if kind == "png" else "JPEG")
    else:
        path.write_bytes(b"no jpeg" if kind == "no jpeg" else data + bytes(2**20))
    assert take.picture(0) is None


def test_pictures_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    take = Recording.begin(tmp_path / "take", Manifest({}, {}, LatentShape(1, 16, 9, 4, 4)))
    (tmp_path / "take" / PICTURES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="which is a link"):
        take.add_picture(0, np.zeros((8, 8, 3), np.uint8))
    assert not [*(tmp_path / "elsewhere").iterdir()]
