"""Sizes and spans: pixels, latents, tokens and chunks."""

from dataclasses import dataclass

from .errors import OutputError

SPATIAL = 8  # pixels per latent row or column
TEMPORAL = 4  # pixel frames per latent frame after the first
PATCH = 2  # latent rows or columns per token
FPS = 16


def latent_frames(pixel_frames: int) -> int:
    """Latent frames that cover `pixel_frames`, rounded up to 4 * (T - 1) + 1."""
    if pixel_frames < 1:
        raise OutputError(f"expected 1 frame or more, got {pixel_frames}; ask for at least 1")
    return -(-(pixel_frames - 1) // TEMPORAL) + 1


def pixel_frames(latent_frames: int) -> int:
    """Pixel frames of a clip of `latent_frames`: 4 * (T - 1) + 1."""
    return TEMPORAL * (latent_frames - 1) + 1 if latent_frames else 0


# Names people give sizes, as what is shown; 1080 is no multiple of 16, so 1088 are made and the middle is kept.
# Other sizes are made the same way, whoever asks for them.
SIZES: dict[str, tuple[int, int]] = {"480p": (832, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
SIZES |= {f"{name}-portrait": (height, width) for name, (width, height) in SIZES.items()}


def made_size(width: int, height: int) -> tuple[int, int]:
    """What is made so that this size can be shown: sides rounded up to multiples of 16."""
    side = SPATIAL * PATCH
    return -(-width // side) * side, -(-height // side) * side


LONGEST_SIDE = 8192  # pixels; h264 and every machine's memory end not far behind


def check_shown_size(width: int, height: int) -> None:
    """OutputError for a size that no video has."""
    if min(width, height) < 2 or max(width, height) > LONGEST_SIDE or width % 2 or height % 2:
        near = [min(max(2, side // 2 * 2), LONGEST_SIDE) for side in (width, height)]
        raise OutputError(
            f"expected even sides from 2 to {LONGEST_SIDE} pixels, got {width}x{height}; use e.g. {near[0]}x{near[1]}"
        )


def screen_size(width: int, height: int) -> tuple[int, int]:
    """What is shown of decoded frames: a named size whose sides had to be rounded up, else all of them."""
    rounded = {made_size(*size): size for size in SIZES.values()}
    return rounded.get((width, height), (width, height))


@dataclass(frozen=True)
class LatentShape:
    """Shape of a clip's latents (B, C, T, h, w)."""

    batch: int
    channels: int
    frames: int
    height: int
    width: int

    @classmethod
    def of_pixels(cls, width: int, height: int, frames: int, batch: int = 1, channels: int = 16) -> "LatentShape":
        """Latents of a clip of `frames` pixel frames; sides must be multiples of 16 px."""
        side = SPATIAL * PATCH
        if width < side or height < side or width % side or height % side:
            near = [max(side, round(x / side) * side) for x in (width, height)]
            raise OutputError(
                f"expected sides that are multiples of {side} pixels, got {width}x{height}; use e.g. "
                f"{near[0]}x{near[1]}"
            )
        return cls(batch, channels, latent_frames(frames), height // SPATIAL, width // SPATIAL)

    @property
    def rows(self) -> int:
        """Token rows per frame."""
        return self.height // PATCH

    @property
    def cols(self) -> int:
        """Token columns per frame."""
        return self.width // PATCH


@dataclass(frozen=True)
class Span:
    """One chunk: its ordinal and its latent frames start .. stop - 1. A given start is chunk 0.

    part -- ordinal within a given start that takes more than one pass
    """

    chunk: int
    start: int
    stop: int
    given: bool = False
    part: int = 0

    @property
    def frames(self) -> int:
        return self.stop - self.start

    def passes(self, chunk_frames: int) -> list["Span"]:
        """The clean passes that read this chunk: itself, or a long given start in parts of `chunk_frames`."""
        starts = range(self.start, self.stop, chunk_frames)
        return [
            Span(self.chunk, start, min(start + chunk_frames, self.stop), self.given, part)
            for part, start in enumerate(starts)
        ]


def chunk_spans(clip_frames: int, chunk_frames: int, given_frames: int = 0) -> list[Span]:
    """Splits a clip into chunks of `chunk_frames`, the last one maybe shorter; a given start comes first, whole."""
    if clip_frames < 1 or chunk_frames < 1 or not 0 <= given_frames <= clip_frames:
        raise OutputError(
            "expected a clip and chunks of 1 latent frame or more, and a start no longer than the clip, got "
            f"{clip_frames} latent frames in chunks of {chunk_frames} with {given_frames} given; make the clip longer, "
            "or the start shorter"
        )
    spans = [Span(0, 0, given_frames, given=True)] if given_frames else []
    for start in range(given_frames, clip_frames, chunk_frames):
        spans.append(Span(len(spans), start, min(start + chunk_frames, clip_frames)))
    return spans
