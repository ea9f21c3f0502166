"""Rotary positions: which channels turn with what, exact at any index, relative in effect."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dummyforcing_core.kv.rope import THETA, apply_rope, axis_pairs, rope_table


@pytest.mark.parametrize(
    "head_dim, pairs",
    [
        (128, (22, 21, 21)),
        (64, (12, 10, 10)),
        (32, (6, 5, 5)),
        (8, (2, 1, 1)),
        (6, (1, 1, 1)),
        (4, (2, 0, 0)),
        (2, (1, 0, 0)),
    ],
)
def test_axis_pairs(head_dim, pairs):
    assert axis_pairs(head_dim) == pairs


@given(st.integers(1, 200))
def test_axis_pairs_share_out_every_pair(half):
    time, row, col = axis_pairs(2 * half)
    assert time + row + col == half
    assert time >= row == col
    assert 2 * row == 2 * (2 * half // 6)


def by_hand(frame: int, row: int, col: int, head_dim: int) -> list[float]:
    """Angles of one token, pair by pair."""
    axes = zip((frame, row, col), axis_pairs(head_dim), strict=True)
    return [math.fmod(position * THETA ** (-i / pairs), 2 * math.pi) for position, pairs in axes for i in range(pairs)]


@pytest.mark.parametrize("head_dim", [6, 8, 32, 128])
@pytest.mark.parametrize("frames", [[0, 1, 2], [7], [1023, 1024, 5], [1_000_000, 123_456_789]])
def test_tables_equal_float64_by_hand_in_frame_row_column_order(frames, head_dim):
    rows, cols = 2, 3
    cos, sin = rope_table(frames, rows, cols, head_dim)
    assert cos.shape == sin.shape == (len(frames) * rows * cols, head_dim // 2)
    assert cos.dtype == sin.dtype == torch.float32
    tokens = [(frame, row, col) for frame in frames for row in range(rows) for col in range(cols)]
    angles = torch.tensor([by_hand(*token, head_dim) for token in tokens], dtype=torch.float64)
    torch.testing.assert_close(cos.double(), angles.cos(), rtol=0, atol=1e-7)
    torch.testing.assert_close(sin.double(), angles.sin(), rtol=0, atol=1e-7)


def test_frames_may_come_as_range_list_or_tensor():
    tables = [rope_table(frames, 2, 2, 32) for frames in (range(4, 7), [4, 5, 6], torch.tensor([4, 5, 6]))]
    assert all(torch.equal(tables[0][i], other[i]) for other in tables[1:] for i in (0, 1))


def test_a_frames_table_does_not_depend_on_its_neighbours():
    whole, alone = rope_table(range(10), 2, 3, 32), rope_table([7], 2, 3, 32)
    assert torch.equal(whole[0][7 * 6 : 8 * 6], alone[0])
    assert torch.equal(whole[1][7 * 6 : 8 * 6], alone[1])


def rotated(x, frame):
    return apply_rope(x, *rope_table([frame], 1, 1, x.shape[-1]))


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 500), st.integers(0, 500), st.integers(0, 100_000), st.sampled_from((6, 32, 128)), st.integers(0, 99)
)
def test_scores_depend_on_the_distance_alone(query_frame, key_frame, shift, head_dim, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, 1, 2, head_dim, generator=generator) for _ in range(2))
    near = (rotated(q, query_frame) * rotated(k, key_frame)).sum(-1)
    far = (rotated(q, query_frame + shift) * rotated(k, key_frame + shift)).sum(-1)
    torch.testing.assert_close(near, far, rtol=0, atol=2e-5)


def test_scores_do_depend_on_the_distance():
    q = k = torch.ones(1, 1, 1, 32)
    scores = [float((rotated(q, 0) * rotated(k, frame)).sum()) for frame in (0, 1, 2)]
    assert scores[0] == pytest.approx(32)
    assert scores[0] > scores[1] + 0.5 > scores[2] + 1


def test_rotation_turns_interleaved_pairs_and_keeps_lengths():
    x = torch.randn(2, 6, 3, 32, generator=torch.Generator().manual_seed(0))
    cos, sin = rope_table([3, 9], 1, 3, 32)
    turned = apply_rope(x, cos, sin)
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)[:, None]
    torch.testing.assert_close(turned, torch.view_as_real(expected).flatten(-2))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_position_zero_is_the_identity():
    x = torch.randn(1, 1, 2, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rotated(x, 0), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32_and_comes_back(dtype):
    x = torch.randn(1, 1, 2, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    turned = rotated(x, 5)
    assert turned.dtype == dtype
    assert torch.equal(turned, rotated(x.float(), 5).to(dtype))
