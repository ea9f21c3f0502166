"""How large a clip may be for a family: the positions it learnt end at the pictures it was trained on."""

from ..errors import OutputError
from ..geometry import SIZES, made_size
from .family import Family

LARGER = 1.5  # times the trained area: from here on there is something to say
LARGEST_SIDE = 4  # times the trained sides: a chunk's attention then takes 256 times as long


def size_note(width: int, height: int, family: Family) -> str:
    """What an artist should know of frames of this size, in pixels, before work begins; "" for nothing.

    OutputError for a size far beyond the family's training. All named sizes, up to 1080p, can be made.
    """
    trained_width, trained_height = family.trained_size
    times = width * height / (trained_width * trained_height)
    trained = f"{family.title} was trained on, {trained_width}x{trained_height}"
    of = f"{times:.{1 if times < 10 else 0}f} times the area that {trained}"
    sides = (LARGEST_SIDE * trained_width, LARGEST_SIDE * trained_height), made_size(*SIZES["1080p"])
    largest = max(sides, key=lambda size: size[0] * size[1])
    if width * height > largest[0] * largest[1]:
        raise OutputError(
            f"expected frames no larger than {largest[0]}x{largest[1]} in all, got {width}x{height}: that is {of}; "
            "make a smaller clip and enlarge its video"
        )
    return f"{width}x{height} is {of}: shapes may repeat, blur or drift" if times > LARGER else ""
