"""The demo world: two shapes in a lit room, one prompt per chunk of 3 latent frames.

Everything is batched: a `Clips` holds B clips as tensors, `render` draws them. Lengths are in
pixels, times in pixel frames, places on a 3x3 grid (row-major, 0 = top left).
"""

from dataclasses import dataclass

import torch

from dummyforcing_core.text.demo_text import ABSENT, LIGHT_SLOT, UNNAMED

SIZE_PX = 64
CHUNK_FRAMES = 3
PALETTE = torch.tensor(
    [
        [0.92, 0.16, 0.14],
        [0.93, 0.86, 0.14],
        [0.16, 0.78, 0.20],
        [0.16, 0.82, 0.86],
        [0.18, 0.28, 0.94],
        [0.86, 0.20, 0.86],
    ]
)
DARK_GREY = 0.42
GRID_PX = (14.0, 32.0, 50.0)
JITTER_PX = 1.5
WALLS_PX = (12.0, 52.0)  # range of a shape's centre
SPEED_PX = torch.tensor([0.25, 0.5, 1.0])  # per pixel frame
AXES = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])  # motion -> moves along (x, y)


@dataclass(frozen=True)
class Clips:
    """B clips of `chunks` chunks; x and y are centres, shape index 0 = A, 1 = B."""

    colour: torch.Tensor  # (B, 2, chunks) index into PALETTE
    kind: torch.Tensor  # (B, 2, chunks) 0 circle, 1 square, 2 triangle
    present: torch.Tensor  # (B, 2) bool
    centre: torch.Tensor  # (B, 2, pixel frames, 2) x, y
    light: torch.Tensor  # (B, chunks) 1 on, 0 off
    slots: torch.Tensor  # (B, chunks, TEXT_LEN) the prompts

    def __len__(self) -> int:
        return len(self.colour)


def pixel_frames(chunks: int) -> int:
    """Pixel frames of a clip: the first latent frame gives one, each later one four."""
    return 4 * (CHUNK_FRAMES * chunks - 1) + 1


def chunk_of_pixel_frame(chunks: int) -> torch.Tensor:
    """(pixel frames,) the chunk each pixel frame belongs to."""
    latent = (torch.arange(pixel_frames(chunks)) + 3) // 4
    return latent // CHUNK_FRAMES


def start_places(slots: torch.Tensor) -> torch.Tensor:
    """Grid cells (B, 2) from the first chunk's slots: unnamed A stands left, unnamed B right,
    each on the other side if the named one is there already."""
    a, b = slots[:, 4].clone(), slots[:, 9].clone()
    no_a, no_b = a == UNNAMED, b == UNNAMED
    a = torch.where(no_a, torch.where(~no_b & (b % 3 == 0), 5, 3), a)
    b = torch.where(no_b, torch.where(~no_a & (a % 3 == 2), 3, 5), b)
    return torch.stack([a, b], 1)


def simulate(
    colour: torch.Tensor, kind: torch.Tensor, present: torch.Tensor, slots: torch.Tensor, jitter: torch.Tensor
) -> Clips:
    """Play the prompts: slots (B, chunks, TEXT_LEN), jitter (B, 2, 2) px on the start places.

    colour, kind: (B, 2) at the start, whether the first prompt names them or not. A later prompt that names another
    changes the shape with its chunk's first frame.

    A motion moves along its axes; an axis that was moving keeps its direction through bounces, a newly moving one heads
    for the farther wall (for right or down when centred).
    """
    chunks = slots.shape[1]
    cell = start_places(slots[:, 0])
    grid = torch.tensor(GRID_PX)
    nominal = torch.stack([grid[cell % 3], grid[cell // 3]], -1)  # (B, 2, xy)
    position, ideal = nominal + jitter, nominal
    motion = torch.zeros_like(cell)
    speed = torch.ones_like(cell)
    active = torch.zeros(*cell.shape, 2, dtype=torch.bool)
    direction = torch.ones(*cell.shape, 2)
    low, high = WALLS_PX
    frames = [position[:, :, None]]
    for chunk in range(chunks):
        named_motion, named_speed = slots[:, chunk][:, [2, 7]], slots[:, chunk][:, [3, 8]]
        # A newly named motion has normal speed unless it says otherwise.
        speed = torch.where(named_speed >= 0, named_speed, torch.where(named_motion >= 0, 1, speed))
        motion = torch.where(named_motion >= 0, named_motion, motion)
        moves = AXES[motion].bool()
        farther = torch.where(ideal <= (low + high) / 2, 1.0, -1.0)
        direction = torch.where(moves & ~active, farther, direction)
        active = moves
        rate = SPEED_PX[speed][..., None] * moves / moves.sum(-1, keepdim=True).clamp(min=1).sqrt()
        steps = torch.arange(1, (8 if chunk == 0 else 12) + 1).view(1, 1, -1, 1)
        free = position[:, :, None] + (direction * rate)[:, :, None] * steps
        folded = torch.remainder(free - low, 2 * (high - low))
        bounced = folded > high - low
        path = low + torch.where(bounced, 2 * (high - low) - folded, folded)
        wraps = torch.floor_divide(free[:, :, -1] - low, high - low).long()
        direction = torch.where(wraps % 2 == 0, direction, -direction)
        position = ideal = path[:, :, -1]
        frames.append(path)
    colours, kinds = held(colour, slots[..., [0, 5]]), held(kind, slots[..., [1, 6]], absent=ABSENT)
    return Clips(colours, kinds, present, torch.cat(frames, 2), slots[:, :, LIGHT_SLOT], slots)


def held(first: torch.Tensor, named: torch.Tensor, absent: int = UNNAMED) -> torch.Tensor:
    """(B, 2, chunks) values that begin as `first` (B, 2) and stay until a later chunk names another.

    named: (B, chunks, 2), UNNAMED or `absent` where a prompt says nothing of the kind."""
    values = [first]
    for now in named[:, 1:].unbind(1):
        values.append(torch.where((now == UNNAMED) | (now == absent), values[-1], now))
    return torch.stack(values, -1)


def coverage(kind: torch.Tensor, centre: torch.Tensor, size: int = SIZE_PX) -> torch.Tensor:
    """Soft-edged masks (..., size, size) in [0, 1] of shapes: kind (...), centre (..., 2) x, y in px."""
    kind = kind.expand(centre.shape[:-1])
    pixels = torch.arange(size) + 0.5
    dx = pixels - centre[..., 0, None]  # (..., size)
    dy = pixels - centre[..., 1, None]
    mask = torch.empty(*kind.shape, size, size)
    for value in range(3):
        chosen = kind == value
        x, y = dx[chosen][:, None, :], dy[chosen][:, :, None]
        if value == 0:
            inside = 9.7 - (x * x + y * y).sqrt_()
        elif value == 1:
            inside = torch.minimum(8.7 - x.abs(), 8.7 - y.abs())
        else:  # an upright triangle of inradius 6.5 px
            inside = torch.minimum(6.5 - y, 6.5 - 0.866 * x.abs() + 0.5 * y)
        mask[chosen] = inside.add_(0.5).clamp_(0, 1)
    return mask


def background(light: torch.Tensor, size: int = SIZE_PX) -> torch.Tensor:
    """(..., 3, size, size) of light (...): a neutral room, brighter below, cool left to warm right.

    The slopes are there so that a patch of background tells where in the room it is."""
    ramp = (torch.arange(size) + 0.5) / size - 0.5
    down, right = ramp[:, None].expand(size, size), ramp[None].expand(size, size)
    room = torch.stack([0.30 + 0.14 * down + 0.09 * right, 0.30 + 0.14 * down, 0.30 + 0.14 * down - 0.09 * right])
    level = torch.where(light > 0, 1.0, 0.2)
    return level[..., None, None, None] * room


def render(clips: Clips, first: int = 0, last: int | None = None) -> torch.Tensor:
    """Pixels (B, F, 3, size, size) in [-1, 1] of pixel frames first..last-1."""
    chunk = chunk_of_pixel_frame(clips.light.shape[1])[first:last]
    light = clips.light[:, chunk]  # (B, F)
    centre = clips.centre[:, :, first:last]
    mask = coverage(clips.kind[:, :, chunk], centre) * clips.present[:, :, None, None, None]
    colour = PALETTE[clips.colour[:, :, chunk].transpose(1, 2)]  # (B, F, 2, 3)
    paint = torch.where(light[:, :, None, None] > 0, colour, torch.tensor(DARK_GREY))
    rooms = background(torch.tensor([0, 1]))
    pixels = rooms[light]  # (B, F, 3, size, size)
    for shape in (1, 0):  # A is drawn over B
        pixels.lerp_(paint[:, :, shape, :, None, None].expand_as(pixels), mask[:, shape, :, None].expand_as(pixels))
    return pixels.mul_(2).sub_(1)
