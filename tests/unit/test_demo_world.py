"""The demo world: motion rules, pictures, and the measures that judge clips of it."""

import pytest
import torch

from demo import measure
from demo.cases import SWITCH, gap_clips, long_clips, plain_clips, prompts_of, recoloured_clips, switch_clips
from demo.prompts import sample_clips
from demo.world import GRID_PX, PALETTE, WALLS_PX, Clips, chunk_of_pixel_frame, pixel_frames, render, simulate
from dummyforcing_core.text.demo_text import ABSENT, parse_prompt

FIELDS = list(Clips.__dataclass_fields__)


def play(*prompts: str, kinds=(0, 1), colours=(0, 4)):
    """One clip without jitter, one prompt per chunk."""
    slots = torch.tensor([[parse_prompt(prompt)[0] for prompt in prompts]])
    present = torch.tensor([[True, int(slots[0, 0, 6]) != ABSENT]])
    return simulate(torch.tensor([colours]), torch.tensor([kinds]), present, slots, torch.zeros(1, 2, 2))


def test_frame_counts():
    assert pixel_frames(7) == 81
    assert chunk_of_pixel_frame(3).bincount().tolist() == [9, 12, 12]


def test_everything_stays_inside_the_walls():
    centre = sample_clips(200, 7, torch.Generator().manual_seed(0)).centre
    assert WALLS_PX[0] <= centre.min() and centre.max() <= WALLS_PX[1]


def test_motion_is_straight_and_bounces():
    path = play(*["a red circle at the left moving sideways fast"] * 7).centre[0, 0]
    assert (path[:, 1] == 32).all()
    assert torch.allclose(path[:39, 0], 14 + torch.arange(39.0))  # to the wall at 52
    assert torch.allclose(path[38:79, 0], 52 - torch.arange(41.0))  # and back


def test_start_heads_for_the_farther_wall_and_keeps_going():
    down = play("a ball at the top moving up and down", "a ball", "a ball moving up and down fast").centre[0, 0]
    steps = down.diff(dim=0)[:, 1]
    assert torch.allclose(steps[:20], torch.tensor(0.5)) and torch.allclose(steps[20:22], torch.tensor(1.0))
    left = play("a ball at the right moving sideways slowly").centre[0, 0]
    assert torch.allclose(left.diff(dim=0)[:, 0], torch.tensor(-0.25))
    tie = play("a ball at the middle moving diagonally").centre[0, 0].diff(dim=0)
    assert torch.allclose(tie, torch.tensor(0.5 / 2**0.5))


def test_unnamed_motion_at_the_start_is_still():
    assert (play("a red ball", "a red ball").centre[0, 0].diff(dim=0) == 0).all()


def test_unnamed_places_stay_apart():
    assert play("a ball and a box").centre[0, :, 0].tolist() == [[GRID_PX[0], 32.0], [GRID_PX[2], 32.0]]
    assert play("a ball and a box at the left").centre[0, :, 0, 0].tolist() == [GRID_PX[2], GRID_PX[0]]


def test_picture_shows_colours_by_light_and_a_in_front():
    clips = play("a ball at the middle and a box at the middle", "a ball and a box, lights off")
    frames = (render(clips)[0] + 1) / 2
    assert torch.allclose(frames[0, :, 32, 32], PALETTE[0], atol=1e-5)
    assert torch.allclose(frames[-1, :, 32, 32], torch.full((3,), 0.42), atol=1e-5)
    assert frames[0].mean() > 2 * frames[-1].mean()
    apart = (render(play("a ball and a box"))[0] + 1) / 2
    assert torch.allclose(apart[0, :, 32, 50], PALETTE[4], atol=1e-5)


def test_a_named_colour_or_kind_changes_the_shape_then_and_the_rest_stays():
    clips = play("a red ball and a blue box", "a green ball and a box", "a shape and a triangle", "a ball")
    assert clips.colour[0].tolist() == [[0, 2, 2, 2], [4, 4, 4, 4]]
    assert clips.kind[0].tolist() == [[0, 0, 0, 0], [1, 1, 2, 2]]
    frames, chunk = (render(clips)[0] + 1) / 2, chunk_of_pixel_frame(4)
    for c, colour in ((0, 0), (1, 2)):
        for frame in (chunk == c).nonzero()[[0, -1], 0]:
            assert torch.allclose(frames[frame, :, 32, 14], PALETTE[colour], atol=1e-5)
    assert torch.equal(clips.centre, play(*["a red ball and a blue box"] * 4).centre)


def test_sampled_clips_change_and_say_so():
    clips = sample_clips(600, 7, torch.Generator().manual_seed(3))
    for column, values in ((0, clips.colour), (1, clips.kind)):
        changed = values[:, :, 1:] != values[:, :, :-1]
        assert 0.03 < changed.float().mean() < 0.15
        named = clips.slots[:, 1:, [column, 5 + column]].transpose(1, 2)
        assert (named[changed] == values[:, :, 1:][changed]).all()
        assert not changed[:, 1][~clips.present[:, 1]].any()


def test_sampled_clips_cover_what_they_should():
    clips = sample_clips(600, 7, torch.Generator().manual_seed(2))
    constant = (clips.slots == clips.slots[:, :1]).all(2).all(1).float().mean()
    assert constant > 0.3
    assert 0.1 < 1 - clips.present[:, 1].float().mean() < 0.25
    assert (clips.light[:, 0] == 1).all() and 0.3 < (clips.light.amin(1) == 0).float().mean() < 0.6
    assert (clips.colour[:, 0] != clips.colour[:, 1]).all() and (clips.kind[:, 0] != clips.kind[:, 1]).all()
    later_named = (clips.slots[:, 1:, 0] >= 0).float().mean()
    assert (clips.slots[:, 0, 0] >= 0).float().mean() > 0.85 > later_named > 0.3
    same = sample_clips(600, 7, torch.Generator().manual_seed(2))
    assert torch.equal(same.centre, clips.centre) and torch.equal(same.slots, clips.slots)


def test_measures_accept_the_truth():
    clips = plain_clips(6)
    right, judged = measure.shapes_right(render(clips), clips)
    assert right[judged].all() and judged.float().mean() > 0.7
    assert measure.position_error(render(clips), clips).nan_to_num(99).max() < 0.6
    assert measure.background_drift(render(clips)).max() < 2


@pytest.mark.parametrize("fake", ["black", "room", "swapped colours", "other kinds", "shape B missing"])
def test_measures_refuse_fakes(fake):
    clips = plain_clips(6)
    other = {"swapped colours": "colour", "other kinds": "kind"}.get(fake)
    shown = clips
    if other:
        values = {name: getattr(clips, name) for name in type(clips).__dataclass_fields__}
        values[other] = (values[other] + 1) % (6 if other == "colour" else 3)
        shown = type(clips)(**values)
    pixels = render(shown)
    if fake == "black":
        pixels = torch.full_like(pixels, -1)
    elif fake == "room":
        pixels = pixels[:, :1, :, :1, :1].expand_as(pixels) * 0.3
    elif fake == "shape B missing":
        alone = clips.present.clone()
        alone[:, 1] = False
        pixels = render(type(clips)(clips.colour, clips.kind, alone, clips.centre, clips.light, clips.slots))
    right, judged = measure.shapes_right(pixels, clips)
    if fake == "shape B missing":
        assert not right[:, 1][judged[:, 1]].any() and right[:, 0][judged[:, 0]].all()
    else:
        assert right[judged].float().mean() < 0.35
    if fake in ("black", "room"):
        assert (
            measure.colour_recall(pixels, clips, 3).max() == 0
            and measure.travel(pixels, clips.colour[:, 0, 0]).max() == 0
        )


def test_evaluation_prompts_are_fixed_and_understood():
    for clips in (plain_clips(16), gap_clips(16, 3), long_clips(8, 9), recoloured_clips(8, 1), switch_clips(16)[0]):
        assert all(parse_prompt(prompt)[1] == [] for clip in prompts_of(clips) for prompt in clip)
    clips = gap_clips(16, 3)
    assert clips.light[0].tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert (clips.slots[:, 2:, [0, 5]] == -1).all() and (clips.slots[:, :2, 0] >= 0).all()
    assert (measure.travel(render(long_clips(8, 9)), long_clips(8, 9).colour[:, 0, 0]) > 3).all()
    recall = measure.colour_recall(render(clips), clips, 5)
    assert (recall > 0.9).all() and measure.colour_recall(render(clips), clips, 3).max() == 0


def test_recoloured_clips_end_in_colours_that_are_neither_first_nor_named_last():
    clips = recoloured_clips(12, 2)
    assert clips.light[0].tolist() == [1, 1, 1, 1, 0, 0, 1, 1]
    first, last = clips.colour[:, :, 0], clips.colour[:, :, -1]
    assert not (last[:, 0, None] == first).any() and (clips.slots[:, 4:, [0, 5]] == -1).all()
    assert (measure.colour_recall(render(clips), clips, 6) > 0.9).all()
    stale = type(clips)(clips.colour[:, :, :1].expand(-1, -1, 8), *(getattr(clips, f) for f in FIELDS[1:]))
    assert measure.colour_recall(render(stale), clips, 6).max() < 0.5


def test_switch_clips_change_one_shape_once():
    clips, changed = switch_clips(24)
    differs = (clips.colour.diff(dim=2) != 0) | (clips.kind.diff(dim=2) != 0)
    assert (differs.sum((1, 2)) == 1).all() and differs[torch.arange(24), changed, SWITCH - 1].all()
    right, judged = measure.shapes_right(render(clips), clips)
    assert right[judged].all()
    stale = type(clips)(*(getattr(clips, f)[:, :, :1].expand(-1, -1, 7) for f in FIELDS[:2]),
                        *(getattr(clips, f) for f in FIELDS[2:]))  # fmt: skip
    right, judged = measure.shapes_right(render(stale), clips)
    rows = torch.arange(24)
    assert not right[rows, changed, SWITCH:][judged[rows, changed, SWITCH:]].any()


def test_steps_of_the_true_world_are_even():
    inside, between = measure.step_sizes(render(plain_clips(16))[:, 1:])
    assert between == pytest.approx(inside, rel=0.05) and inside > 0.5
    still = torch.zeros(1, 8, 3, 4, 4)
    still[:, 4:] = 1
    assert measure.step_sizes(still) == (0.0, 127.5)
