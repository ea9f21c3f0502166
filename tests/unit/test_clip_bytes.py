"""Small previews in memory."""

import io

import av
import numpy as np
import pytest

from dummyforcing_core.clips.video import clip_bytes


def decoded(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (64, 64)),
        ((480, 832), (294, 512)),
        ((1920, 1080), (512, 288)),
        ((17, 1023), (8, 512)),
        ((2, 2), (2, 2)),
    ],
)
def test_sides_are_reduced_and_even(size: tuple[int, int], shown: tuple[int, int]) -> None:
    frames = np.zeros((3, *size, 3), np.uint8)
    got = decoded(clip_bytes(frames, 16))
    assert len(got) == 3
    assert got[0].shape[:2] == shown


def test_frames_come_in_order_and_look_alike() -> None:
    levels = [30, 90, 150, 210]
    frames = np.stack([np.full((64, 96, 3), level, np.uint8) for level in levels])
    got = decoded(clip_bytes(frames, 24))
    assert [abs(frame.mean() - level) < 8 for frame, level in zip(got, levels, strict=True)] == [True] * 4


def test_left_and_right_stay_apart_in_a_reduced_picture() -> None:
    frames = np.zeros((1, 600, 1200, 3), np.uint8)
    frames[:, :, 600:, 0] = 255
    (frame,) = decoded(clip_bytes(frames, 16, longest_px=128))
    assert frame.shape == (64, 128, 3)
    assert frame[:, 70:, 0].mean() > 200 > 60 > frame[:, :58, 0].mean()
