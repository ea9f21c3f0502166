"""Contact sheets: which frames are picked, where the tiles land, what happens with bad input."""

import numpy as np
import pytest

from dummyforcing_core.clips.contact_sheet import ContactSheet, contact_sheet, evenly_spaced, save_png
from dummyforcing_core.errors import OutputError

Image = pytest.importorskip("PIL.Image")


def flat(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def tile_levels(sheet) -> list[list[int]]:
    """The grey level of every tile, row by row: runs of one grey value that are as large as a tile."""
    pixels = np.asarray(sheet).astype(int)
    levels = [v for v in range(100, 256) if (pixels == v).all(axis=2).sum() > 500]
    corners = {v: tuple(np.argwhere((pixels == v).all(axis=2))[0]) for v in levels}
    rows = sorted({y for y, _ in corners.values()})
    return [[v for _, v in sorted((x, v) for v, (y, x) in corners.items() if y == row)] for row in rows]


@pytest.mark.parametrize("total", [1, 2, 20, 21, 22, 33, 81, 957])
def test_evenly_spaced_reaches_both_ends(total):
    picked = evenly_spaced(total, 21)
    assert len(picked) == min(total, 21) == len(set(picked))
    assert picked[0] == 0 and picked[-1] == total - 1
    steps = np.diff(picked)
    assert total == 1 or steps.max() - steps.min() <= 1
    assert np.abs(np.array(picked) - np.linspace(0, total - 1, len(picked))).max() <= 0.5


def test_81_frames_give_one_frame_per_latent():
    assert ContactSheet(81).picked_frames == list(range(0, 81, 4))


def test_tiles_stand_in_rows_or_columns():
    frames = [flat(100 + 10 * i) for i in range(5)]
    assert tile_levels(contact_sheet(frames, 3, scale=1)) == [[100, 110, 120], [130, 140]]
    assert tile_levels(contact_sheet(frames, 3, scale=1, by_column=True)) == [[100, 120, 140], [110, 130]]
    # A generator will do, and a sheet never has more columns than frames.
    one_row = contact_sheet((f for f in frames[:2]), 9, scale=1)
    assert one_row.width < 3 * 48 + 40


def test_the_collector_picks_the_same_frames_however_the_clip_is_cut():
    clip = np.stack([flat(100 + i) for i in range(81)])
    sheets = []
    for cuts in ([81], [9] + [12] * 6, [1] * 81):
        sheet = ContactSheet(81, scale=1)
        start = 0
        for count in cuts:
            sheet.add(clip[start : start + count])
            start += count
        sheets.append(sheet.image(title="a red ball"))
    assert tile_levels(sheets[0]) == [[100 + 4 * row + 12 * column for column in range(7)] for row in range(3)]
    for other in sheets[1:]:
        assert np.array_equal(np.asarray(sheets[0]), np.asarray(other))


def test_the_collector_holds_tiles_not_frames():
    sheet = ContactSheet(1000)
    for _ in range(1000):
        sheet.add(flat(120, 360, 640)[None])
    held = sum(tile.nbytes for tile in sheet._tiles)
    assert len(sheet._tiles) == 21
    assert held < 4 * flat(120, 360, 640).nbytes


def test_a_clip_that_ends_early_gives_what_it_reached():
    sheet = ContactSheet(81, scale=1)
    with pytest.raises(OutputError, match="at least one frame"):
        sheet.image()
    sheet.add(np.stack([flat(100 + i) for i in range(21)]))
    assert tile_levels(sheet.image()) == [[100, 112], [104, 116], [108, 120]]


def test_sizes_small_up_by_a_whole_factor_large_down():
    small, large = np.zeros((64, 64, 3), np.uint8), np.zeros((480, 832, 3), np.uint8)
    assert contact_sheet([small], 1).width - contact_sheet([small], 1, scale=1).width in (128, 192)
    assert contact_sheet([large], 1).width < 300
    checker = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    tile = np.asarray(contact_sheet([checker], 1))[40:200, 40:200]
    assert set(np.unique(tile)) == {0, 255}  # no blur


def test_captions_and_title_are_drawn_and_stay_inside():
    frames = [flat(0) for _ in range(3)]
    bare = contact_sheet(frames, 3, scale=1)
    captioned = contact_sheet(frames, 3, ["frame 0", "x" * 500, "ein Würfel"], scale=1)
    assert captioned.height > bare.height and captioned.width == bare.width
    titled = contact_sheet(frames, 3, title="a red ball rolls over the green floor " * 20, scale=1)
    assert bare.height < titled.height < bare.height + 150
    for sheet in (captioned, titled):
        right_margin = np.asarray(sheet)[:, -8:]
        assert (right_margin == right_margin[0, 0]).all()
    text = np.asarray(captioned)[-40:]
    assert text.max() > 120  # light on dark


def test_save_writes_a_png_whole_or_not_at_all(tmp_path):
    sheet = ContactSheet(3, scale=1)
    sheet.add(np.stack([flat(120)] * 3))
    sheet.save(tmp_path / "clip.png", title="a prompt")
    with Image.open(tmp_path / "clip.png") as image:
        assert image.format == "PNG" and image.size == sheet.image("a prompt").size
    assert [p.name for p in tmp_path.iterdir()] == ["clip.png"]
    with pytest.raises(OutputError, match="folder does not exist"):
        save_png(sheet.image(), tmp_path / "missing" / "clip.png")


def test_bad_input_says_what_came():
    with pytest.raises(OutputError, match="at least one frame"):
        contact_sheet([], 3)
    with pytest.raises(OutputError, match="expected 1 captions, one a frame, got 2"):
        contact_sheet([flat(0)], 1, ["a", "b"])
    with pytest.raises(OutputError, match="one size"):
        contact_sheet([flat(0), flat(0, 16)], 2, scale=1)
    with pytest.raises(OutputError, match="float64"):
        contact_sheet([np.zeros((4, 4, 3))], 1)
    with pytest.raises(OutputError, match="expected 1 column or more"):
        contact_sheet([flat(0)], 0)
    with pytest.raises(OutputError, match="at least 1"):
        ContactSheet(0)
