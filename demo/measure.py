"""What is in a frame: coloured shapes, which kind they are, and how much of them shows.

Every measure asks for enough coloured pixels, so that an empty or grey clip fails it.
"""

import torch
from torch import Tensor

from dummyforcing_core.geometry import TEMPORAL

from .world import PALETTE, SIZE_PX, Clips, background, chunk_of_pixel_frame, coverage

COLOURED = 0.35  # a pixel's largest minus smallest channel, of 1, from which it has a colour
PRESENT_PX = 60  # a shape shows if this many pixels have its colour (whole shapes: 220 to 300)
WHOLE_SHARE = 0.75  # share of its area from which a shape's outline is judged
KIND_IOU = 0.6


def colour_labels(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) in [-1, 1] -> palette index (..., H, W), -1 where there is no colour."""
    rgb = (pixels + 1) / 2
    saturation = rgb.amax(-3) - rgb.amin(-3)
    distance = torch.stack([(rgb - c[:, None, None]).square().sum(-3) for c in PALETTE])
    return torch.where(saturation > COLOURED, distance.argmin(0), -1)


def shape_areas(kinds: Tensor) -> Tensor:
    """Pixels a whole shape of each kind (...) covers."""
    centre = torch.full((3, 2), SIZE_PX / 2)
    return (coverage(torch.arange(3), centre) > 0.5).sum((1, 2)).float()[kinds]


def centroids(mask: Tensor) -> Tensor:
    """Centres of mass (N, 2) as x, y of boolean masks (N, H, W); nan where a mask is empty."""
    grid = torch.arange(mask.shape[-1]) + 0.5
    weight = mask.float()
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * grid).sum(1), (weight.sum(2) * grid).sum(1)], 1) / total[:, None]


def kinds_of(mask: Tensor) -> Tensor:
    """Kind (N,) whose outline at the mask's centroid fits each boolean mask (N, H, W) best, -1 if none fits."""
    centre = centroids(mask).nan_to_num(0)
    overlaps = []
    for kind in range(3):
        template = coverage(torch.tensor(kind), centre) > 0.5
        overlaps.append((template & mask).sum((1, 2)) / (template | mask).sum((1, 2)).clamp(min=1))
    best, kind = torch.stack(overlaps).max(0)
    return torch.where(best >= KIND_IOU, kind, -1)


def true_visibility(clips: Clips) -> Tensor:
    """(B, 2, F) share of each shape that shows in the true world: B may stand behind A."""
    mask = coverage(clips.kind[:, :, chunk_of_pixel_frame(clips.light.shape[1])], clips.centre)
    hidden = mask[:, 1] * mask[:, 0]
    share = 1 - hidden.sum((2, 3)) / mask[:, 1].sum((2, 3))
    return torch.stack([torch.ones_like(share), share], 1) * clips.present[:, :, None]


def shapes_right(pixels: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """Per chunk: are the clip's shapes there, in the colours and kinds that they have then, and no third colour?

    pixels (B, F, 3, H, W). Returns (right, judged), both (B, 2 shapes, chunks) bool. A shape is
    judged in lit chunks in which the true world shows at least 90 % of it on average. It is right
    if its colour covers PRESENT_PX in most frames, most of its whole outlines have its kind, and
    no colour of neither shape covers PRESENT_PX in most frames.
    """
    chunks = clips.light.shape[1]
    labels = colour_labels(pixels)
    chunk = chunk_of_pixel_frame(chunks)
    counts = torch.stack([(labels == c).sum((2, 3)) for c in range(len(PALETTE))], 2)  # (B, F, colours)
    right = torch.zeros(len(clips), 2, chunks, dtype=torch.bool)
    own = torch.nn.functional.one_hot(clips.colour[:, :, chunk], len(PALETTE)) * clips.present[:, :, None, None]
    stray = (counts.masked_fill(own.sum(1) > 0, 0) >= PRESENT_PX).any(2)  # (B, F)
    for shape in range(2):
        named = clips.kind[:, shape, chunk]  # (B, F)
        mask = labels == clips.colour[:, shape, chunk, None, None]
        count = mask.sum((2, 3))
        whole = count >= WHOLE_SHARE * shape_areas(named)
        kind = kinds_of(mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
        fits = (kind == named) & whole
        for c in range(chunks):
            here = chunk == c
            shows = (count[:, here] >= PRESENT_PX).float().mean(1) > 0.5
            outline = fits[:, here].sum(1) * 2 > whole[:, here].sum(1)
            right[:, shape, c] = shows & outline & (stray[:, here].float().mean(1) <= 0.5)
    visible = true_visibility(clips)
    mean = torch.stack([visible[:, :, chunk == c].mean(2) for c in range(chunks)], 2)
    return right, (mean >= 0.9) & (clips.light[:, None] > 0)


def colour_recall(pixels: Tensor, clips: Clips, chunk: int) -> Tensor:
    """(B,) share of the coloured pixels of a chunk that have one of the clip's colours of then.

    The divisor is at least half of what one shape covers, so that a clip without colour scores near 0.
    """
    here = chunk_of_pixel_frame(clips.light.shape[1]) == chunk
    labels = colour_labels(pixels[:, here])
    true = torch.zeros_like(labels, dtype=torch.bool)
    for shape in range(2):
        true |= (labels == clips.colour[:, shape, chunk, None, None, None]) & clips.present[:, shape, None, None, None]
    coloured = (labels >= 0).sum((1, 2, 3))
    least = 0.5 * shape_areas(clips.kind[:, 0, chunk]) * int(here.sum())
    return true.sum((1, 2, 3)) / torch.maximum(coloured.float(), least)


def travel(pixels: Tensor, colour: Tensor) -> Tensor:
    """(B,) range in px, along the axis where it is larger, over which each clip's colour moves."""
    mask = colour_labels(pixels) == colour[:, None, None, None]
    centre = centroids(mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
    seen = mask.sum((2, 3)) >= PRESENT_PX
    high = torch.where(seen[..., None], centre, -torch.inf).amax(1)
    low = torch.where(seen[..., None], centre, torch.inf).amin(1)
    return torch.where(seen.any(1), (high - low).amax(1), 0.0)


def position_error(pixels: Tensor, clips: Clips) -> Tensor:
    """(B, F) distance in px between shape A and where the true world has it; nan where A does not show."""
    chunk = chunk_of_pixel_frame(clips.light.shape[1])
    mask = colour_labels(pixels) == clips.colour[:, 0, chunk, None, None]
    centre = centroids(mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
    error = (centre - clips.centre[:, 0]).norm(dim=2)
    return torch.where(mask.sum((2, 3)) >= PRESENT_PX, error, torch.nan)


def background_drift(pixels: Tensor) -> Tensor:
    """(B,) mean absolute error, in levels of 255, of the uncoloured pixels against the lit room."""
    uncoloured = (colour_labels(pixels) < 0).unsqueeze(2)
    error = (pixels + 1) / 2 - background(torch.ones((), dtype=torch.long))
    return 255 * (error.abs() * uncoloured).sum((1, 2, 3, 4)) / (3 * uncoloured.sum((1, 2, 3, 4)).clamp(min=1))


def steps(pixels: Tensor) -> Tensor:
    """What changes from each frame of (B, F, 3, H, W) to the next."""
    return pixels[:, 1:] - pixels[:, :-1]


def step_sizes(pixels: Tensor) -> tuple[float, float]:
    """Of pixels (B, 4t, 3, H, W) that begin with a latent frame's first, in levels of 255: inside, between latents."""
    size = steps(pixels).abs().mean((0, 2, 3, 4)) * 127.5
    between = torch.arange(len(size)) % TEMPORAL == TEMPORAL - 1
    return float(size[~between].mean()), float(size[between].mean())
