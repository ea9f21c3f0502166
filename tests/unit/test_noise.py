"""Seeded noise: a function of seed, chunk and step, and of nothing else."""

import pytest
import torch

from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.noise import SeededNoise

SHAPE = LatentShape(batch=2, channels=16, frames=21, height=4, width=6)
CHUNK = Span(2, 6, 9)


def test_shape_and_unit_variance():
    drawn = SeededNoise(0, LatentShape(2, 16, 21, 60, 104), 3)(0, CHUNK)
    assert (drawn.shape, drawn.dtype) == ((2, 16, 3, 60, 104), torch.float32)
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)


def test_same_arguments_same_bits_in_any_order_of_calls():
    first, second = SeededNoise(7, SHAPE, 3), SeededNoise(7, SHAPE, 3)
    calls = [(step, span) for step in range(3) for span in (Span(0, 0, 3), Span(1, 3, 6))]
    forward = {(step, span.chunk): first(step, span) for step, span in calls}
    backward = {(step, span.chunk): second(step, span) for step, span in reversed(calls)}
    assert all(torch.equal(forward[key], backward[key]) for key in forward)


def test_seed_chunk_step_and_batch_item_all_matter():
    draws = [
        SeededNoise(seed, SHAPE, 3)(step, Span(chunk, 3 * chunk, 3 * chunk + 3))[0]
        for seed in (0, 5, 2**63)
        for step in (0, 1, 4)
        for chunk in (0, 1, 100)
    ]
    draws.append(SeededNoise(0, SHAPE, 3)(0, Span(0, 0, 3))[1])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_batch_item_b_is_item_0_of_the_seed_b_higher():
    whole = SeededNoise(40, SHAPE, 3)(1, CHUNK)
    for item in range(2):
        alone = SeededNoise(40 + item, LatentShape(1, 16, 21, 4, 6), 3)(1, CHUNK)
        assert torch.equal(whole[item], alone[0])


def test_neither_clip_length_nor_position_matters_only_the_ordinal():
    other_clip = LatentShape(2, 16, 240, 4, 6)
    assert torch.equal(SeededNoise(1, SHAPE, 3)(0, CHUNK), SeededNoise(1, other_clip, 3)(0, Span(2, 7, 10)))


@pytest.mark.parametrize("frames", [1, 2])
def test_a_short_chunk_begins_like_a_whole_one(frames):
    noise = SeededNoise(3, SHAPE, 3)
    assert torch.equal(noise(2, Span(2, 6, 6 + frames)), noise(2, CHUNK)[:, :, :frames])


def test_frames_are_drawn_one_after_the_other():
    """A longer chunk begins like a shorter one of the same seed."""
    assert torch.equal(SeededNoise(3, SHAPE, 4)(0, Span(0, 0, 4))[:, :, :3], SeededNoise(3, SHAPE, 3)(0, Span(0, 0, 3)))


def test_torchs_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = SeededNoise(3, SHAPE, 3)(0, CHUNK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(SeededNoise(3, SHAPE, 3)(0, CHUNK), drawn)


@pytest.mark.parametrize("seed", [2**64 - 1, 2**63, -1])
def test_any_64_bit_seed_works_and_wraps(seed):
    drawn = SeededNoise(seed, SHAPE, 3)(0, CHUNK)
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, SeededNoise(seed % 2**64, SHAPE, 3)(0, CHUNK))
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("chunk, step", [(1, 0), (1, 3), (2, 1)])
def test_different_seeds_never_share_noise(chunk, step):
    small = SeededNoise(7, SHAPE, 3)(step, Span(chunk, 3 * chunk, 3 * chunk + 3))[0]
    large = SeededNoise(7 + chunk * 2**32, SHAPE, 3)(0, Span(step, 3 * step, 3 * step + 3))[0]
    assert not torch.equal(small, large)
