"""The video of a take anew: only its latents and a decoder are needed."""

from fractions import Fraction
from pathlib import Path

from ..errors import OutputError, shown
from ..files import check_regular, rename_whole
from ..takes.take import Take
from ..vae.streaming import to_uint8
from .encoding import Encoding
from .pipeline import NewDecoder
from .take_view import frames_of_take, size_of_take, title_of_take
from .video import VideoWriter


def video_tags(title: str, model: str, seed: object, policy: object) -> dict[str, str]:
    """What a clip's file says of it."""
    return {"title": title, "comment": f"{shown(model, 200)}, seed {seed}, {policy}"}


def decode_take(
    take: Take, new_decoder: NewDecoder, path: Path, encoding: Encoding, fps: Fraction, scale: int = 1
) -> int:
    """Writes the video of what is there, chunk by chunk, whole or not at all under this name; its frames.

    scale -- an integer enlargement. OutputError if there is no chunk, or a file cannot be written.
    """
    if not take.entries:
        raise OutputError(
            f"expected a take that holds a chunk, got {take.folder}, which holds none; go on with it first"
        )
    conditions, size, left = take.manifest.conditions, size_of_take(take), frames_of_take(take)
    tags = video_tags(
        title_of_take(take), str(conditions.get("model", "")), conditions.get("seed"), conditions.get("policy")
    )
    part, decoder = path.with_name(f"{path.stem}.part{path.suffix}"), new_decoder()
    check_regular(path, part)
    with VideoWriter(part, *size, fps, encoding, scale=scale, metadata=tags) as video:
        for span in take.spans:
            pixels = to_uint8(decoder.push(take.latent(span)), size)[0]
            video.write(pixels[: left - video.frames_written])
        rest = decoder.flush()
        if rest.shape[2]:
            video.write(to_uint8(rest, size)[0][: left - video.frames_written])
    rename_whole(part, path)
    return left
