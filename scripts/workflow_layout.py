"""Where the nodes of a workflow stand: groups in rows, columns in a group, nodes below each other in a column.

    layout = Layout(Place(height=200), note_width=400)
    layout.row()
    layout.group("Models", 300).places.append(Place(height=196))
    layout.groups()

The note stands left of all rows, as high as they are together. A row is as high as its highest column and all rows are
equally wide: nodes that show something take what is left over.
"""

from dataclasses import dataclass, field

MARGIN, GAP, TITLE = 20, 24, 30  # graph units, which are pixels at a zoom of 1
HEADER = 44  # of a group: its title and some air
FREE = (70, 100, 1590, 840)  # left, top, right, bottom of what the page's own bars leave of a window of 1600x900

Rectangle = tuple[int, int, int, int]  # left, top, width, height


@dataclass
class Place:
    """One node's, without its title; `grows` is for nodes that show more if there is more room."""

    height: int
    grows: bool = False
    x: int = 0
    y: int = 0
    width: int = 0


@dataclass
class Column:
    """Nodes below each other."""

    width: int
    places: list[Place] = field(default_factory=list)

    @property
    def height(self) -> int:
        """Of all nodes with their titles."""
        return sum(place.height + TITLE for place in self.places) + GAP * (len(self.places) - 1)

    @property
    def growing(self) -> list[Place]:
        """The nodes that take what is left over."""
        return [place for place in self.places if place.grows]


@dataclass
class Group:
    """Columns beside each other under one title."""

    title: str
    columns: list[Column]

    @property
    def width(self) -> int:
        """Of all columns with the margins around them."""
        return sum(column.width for column in self.columns) + GAP * (len(self.columns) - 1) + 2 * MARGIN


class Layout:
    """Rows of groups, filled in reading order, and the note beside them."""

    def __init__(self, note: Place, note_width: int) -> None:
        self._rows: list[list[Group]] = []
        self._note = Group("Read me", [Column(note_width, [note])])

    def row(self) -> None:
        """The next groups stand in a row of their own, below."""
        self._rows.append([])

    def group(self, title: str, width: int) -> Column:
        """A group of this title, and its first column."""
        self._rows[-1].append(Group(title, []))
        return self.column(width)

    def column(self, width: int) -> Column:
        """The group's next column."""
        columns = self._rows[-1][-1].columns
        columns.append(Column(width))
        return columns[-1]

    def groups(self) -> list[tuple[str, Rectangle]]:
        """Gives every node its place; the groups with theirs, the note's first."""
        widest = max(_width(row) for row in self._rows)
        top, found = 0, []
        for row in self._rows:
            columns = [column for group in row for column in group.columns]
            _widen([column for column in columns if column.growing], widest - _width(row))
            height, left = max(column.height for column in columns), self._note.width + GAP
            for group in row:
                found.append((group.title, _place(group, left, top, height)))
                left += group.width + GAP
            top += HEADER + height + MARGIN + GAP
        return [(self._note.title, _place(self._note, 0, 0, top - GAP - MARGIN - HEADER)), *found]


def _width(row: list[Group]) -> int:
    return sum(group.width for group in row) + GAP * (len(row) - 1)


def _widen(columns: list[Column], by: int) -> None:
    for number, column in enumerate(columns):
        column.width += by * (number + 1) // len(columns) - by * number // len(columns)


def _place(group: Group, left: int, top: int, height: int) -> Rectangle:
    """The group's rectangle, in which its columns are so high."""
    x = left + MARGIN
    for column in group.columns:
        y, spare, growing = top + HEADER, height - column.height, column.growing
        for place in growing:
            place.height += spare // len(growing)
        for place in column.places:
            place.x, place.y, place.width = x, y + TITLE, column.width
            y += TITLE + place.height + GAP
        x += column.width + GAP
    return left, top, group.width, HEADER + height + MARGIN


def view(groups: list[Rectangle]) -> dict[str, object]:
    """Zoom and offset with which all is seen in a window of 1600x900, for files that are dropped on the page."""
    left, top = min(box[0] for box in groups), min(box[1] for box in groups)
    right, bottom = max(box[0] + box[2] for box in groups), max(box[1] + box[3] for box in groups)
    scale = min((FREE[2] - FREE[0]) / (right - left), (FREE[3] - FREE[1]) / (bottom - top))
    middle = (FREE[0] + FREE[2]) / 2 / scale, (FREE[1] + FREE[3]) / 2 / scale
    offset = [round(middle[0] - (left + right) / 2), round(middle[1] - (top + bottom) / 2)]
    return {"scale": round(scale, 3), "offset": offset}
