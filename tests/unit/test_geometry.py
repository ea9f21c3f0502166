"""Pixels, latents, tokens and chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.errors import OutputError
from dummyforcing_core.geometry import LatentShape, Span, chunk_spans, latent_frames, pixel_frames


@pytest.mark.parametrize("pixels, latents", [(1, 1), (2, 2), (5, 2), (6, 3), (81, 21), (477, 120), (957, 240)])
def test_latent_frames_cover_the_pixel_frames(pixels, latents):
    assert latent_frames(pixels) == latents


@pytest.mark.parametrize("latents, pixels", [(0, 0), (1, 1), (2, 5), (21, 81), (120, 477), (240, 957)])
def test_pixel_frames_of_a_clip(latents, pixels):
    assert pixel_frames(latents) == pixels


@given(st.integers(1, 10_000))
def test_latent_frames_are_the_fewest_that_cover(pixels):
    latents = latent_frames(pixels)
    assert pixel_frames(latents) >= pixels > pixel_frames(latents - 1)


@pytest.mark.parametrize("frames", [0, -3])
def test_a_clip_has_at_least_one_frame(frames):
    with pytest.raises(OutputError, match=str(frames)):
        latent_frames(frames)


@pytest.mark.parametrize(
    "width, height, rows, cols, tokens",
    [(832, 480, 30, 52, 1560), (1280, 720, 45, 80, 3600), (1920, 1088, 68, 120, 8160)],
)
def test_known_sizes(width, height, rows, cols, tokens):
    shape = LatentShape.of_pixels(width, height, 81)
    assert shape == LatentShape(1, 16, 21, height // 8, width // 8)
    assert (shape.rows, shape.cols, shape.rows * shape.cols) == (rows, cols, tokens)


@pytest.mark.parametrize(
    "width, height, near", [(1920, 1080, "1920x1088"), (100, 64, "96x64"), (0, 64, "16x64"), (-16, 64, "16x64")]
)
def test_sides_off_the_grid_are_refused_with_a_size_that_works(width, height, near):
    with pytest.raises(OutputError, match=f"16 pixels, got {width}x{height}; use e.g. {near}"):
        LatentShape.of_pixels(width, height, 81)


@pytest.mark.parametrize(
    "clip, chunk, given_frames, expected",
    [
        (6, 3, 0, [Span(0, 0, 3), Span(1, 3, 6)]),
        (7, 3, 0, [Span(0, 0, 3), Span(1, 3, 6), Span(2, 6, 7)]),
        (2, 3, 0, [Span(0, 0, 2)]),
        (2, 1, 0, [Span(0, 0, 1), Span(1, 1, 2)]),
        (7, 3, 1, [Span(0, 0, 1, True), Span(1, 1, 4), Span(2, 4, 7)]),
        (8, 3, 5, [Span(0, 0, 5, True), Span(1, 5, 8)]),
        (5, 3, 5, [Span(0, 0, 5, True)]),
    ],
)
def test_chunk_tables(clip, chunk, given_frames, expected):
    assert chunk_spans(clip, chunk, given_frames) == expected


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 60))
def test_chunks_tile_the_clip_and_count_up(clip, chunk, given_frames):
    given_frames = min(given_frames, clip)
    spans = chunk_spans(clip, chunk, given_frames)
    assert [frame for span in spans for frame in range(span.start, span.stop)] == list(range(clip))
    assert [span.chunk for span in spans] == list(range(len(spans)))
    assert [span.given for span in spans] == [bool(given_frames and i == 0) for i in range(len(spans))]
    generated = [span.frames for span in spans if not span.given]
    assert all(frames == chunk for frames in generated[:-1])
    assert all(1 <= frames <= chunk for frames in generated[-1:])


@pytest.mark.parametrize("clip, chunk, given_frames", [(0, 3, 0), (6, 0, 0), (6, 3, 7), (6, 3, -1), (-1, 3, 0)])
def test_impossible_chunks_name_all_numbers(clip, chunk, given_frames):
    with pytest.raises(OutputError, match=f"{clip} latent frames in chunks of {chunk} with {given_frames} given"):
        chunk_spans(clip, chunk, given_frames)
