"""The vocabulary of the demo world: phrase -> (field, value)."""

COLOUR, KIND, MOTION, SPEED, LIGHT = "colour", "kind", "motion", "speed", "light"
PLACE_ROW, PLACE_COLUMN = "row", "column"

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
KINDS = ("circle", "square", "triangle")
MOTIONS = ("standing still", "moving sideways", "moving up and down", "moving diagonally")
SPEEDS = ("slowly", "at normal speed", "fast")

# One row per value: the words that mean it, separated by commas.
_WORDS: dict[str, tuple[str, ...]] = {
    COLOUR: (
        "red, crimson, scarlet",
        "yellow, gold, golden",
        "green, lime",
        "cyan, turquoise, aqua",
        "blue, navy",
        "magenta, purple, pink, violet, fuchsia",
    ),
    KIND: (
        "circle, circles, ball, balls, disc, disk, dot, sphere",
        "square, squares, box, boxes, cube, block",
        "triangle, triangles, pyramid, wedge",
    ),
    MOTION: (
        "still, motionless, static, stationary, resting, rests, not moving, does not move, stays, waiting",
        "sideways, horizontally, horizontal, side to side, left and right, left to right, right to left,"
        " moving left, moving right, moving to the left, moving to the right, moves left, moves right",
        "up and down, down and up, vertically, vertical, up, down, upwards, downwards, upward, downward,"
        " top to bottom, bottom to top",
        "diagonally, diagonal",
    ),
    SPEED: (
        "slowly, slow, gently",
        "normal speed, normally, normal, steadily, medium speed",
        "fast, quickly, quick, rapidly, rapid, swiftly",
    ),
    PLACE_ROW: ("top, upper", "middle, centre, center", "bottom, lower"),
    PLACE_COLUMN: ("left", "middle column", "right"),
    LIGHT: (
        "lights off, light off, lights out, light out, lights are off, light is off, the lights go out,"
        " dark, darkness, in the dark",
        "lights on, light on, lights are on, light is on, the lights come back, lights back on",
    ),
}

PHRASES: dict[tuple[str, ...], tuple[str, int]] = {
    tuple(phrase.split()): (field, value)
    for field, rows in _WORDS.items()
    for value, row in enumerate(rows)
    for phrase in row.split(",")
}
# A noun without a kind.
PHRASES.update({(word,): (KIND, -1) for word in ("shape", "shapes", "object", "objects", "thing")})

_ARTICLES = "a an the another one some"
_GLUE = """and is are in on at of to from with while it its that which there then over by side both moving moves move
going goes go standing stands stand sitting sits staying bouncing drifting sliding gliding corner edge speed very
coloured colored"""

ARTICLES = frozenset(_ARTICLES.split())
GLUE = ARTICLES | frozenset(_GLUE.split())
