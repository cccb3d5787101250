"""The display: a View as lines for a terminal of any width.

One line for the whole, one for each running file as long as they fit, one for each origin that is waited for, and a
count of what did not fit. Nothing jumps: files keep the order in which they were begun, columns their places, and what
is through in a moment gets no line. Pure; names from the list are text, never markup or control characters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len, get_character_cell_size, set_cell_size
from rich.segment import Segment
from rich.style import Style

from bulkspider.options import human
from bulkspider.summary import Told, clock

if TYPE_CHECKING:
    from bulkspider.items import BulkItem
    from bulkspider.view import Running, View, Waiting

BOLD = Style(bold=True)
DIM = Style(dim=True)
GOOD = Style(color="green")
BUSY = Style(color="cyan")
WARN = Style(color="yellow")
BAD = Style(color="red")
TITLE = Style(bold=True)
STYLES = {"title": TITLE, "text": None, "bad": BAD, "cure": WARN, "command": BOLD}

# A file that is through sooner gets no line.
AGE = 0.3
# Of the lines, what waits may take so many beside running files.
WAITING_LINES = 4

Line = list[Segment]


def lines(view: View, columns: int, rows: int, *, unicode: bool = True) -> list[Line]:
    """The picture. No line is wider than columns - 1, because some terminals wrap in their last column, and a fifth of
    the rows stays free for what is said above."""
    width, room = max(columns - 1, 10), max(rows - max(2, rows // 5), 1)
    picture = [_whole(view, width, unicode)]
    if view.entries == 0:
        return picture
    shown = [row for row in view.running if row.age >= AGE]
    waiting = sorted(view.waiting, key=lambda row: -row.seconds)
    room -= 1
    kept = min(len(waiting), max(WAITING_LINES, room - len(shown)), room)
    room -= kept
    if not shown or len(shown) > room:
        shown = shown[: max(room - 1, 0)]
        hidden = len(view.running) - len(shown)
    else:
        hidden = 0
    at = _Columns(width, notes=any(row.connections > 1 or row.broken for row in view.running))
    picture += [_file(row, at, unicode) for row in shown]
    if hidden and room:
        speed = sum(row.speed for row in view.running) - sum(row.speed for row in shown)
        words = f"and {hidden} more" if shown else f"{hidden} running"
        picture.append([Segment(_fit(f"  {words}, {human(speed)}/s", width), DIM)])
    picture += [_waits(row, width) for row in waiting[:kept]]
    return picture


def failed(item: BulkItem) -> Line:
    """A failure, as it happens."""
    error = item.error or {"code": "error", "message": ""}
    return [
        Segment(clean(f"failed {item.name or f'line {item.line}'}: {error['message']} [{error['code']}]"), BAD),
    ]


def summary_line(told: Told) -> Line:
    return [Segment(clean(told.text), STYLES[told.kind])]


def _whole(view: View, width: int, unicode: bool) -> Line:
    """The line for the whole: what does not fit is left out, the least important first."""
    dot = " · " if unicode else " | "
    done = [Segment(f"{view.done:,} done", GOOD)]
    if view.failed:
        done += [Segment(", "), Segment(f"{view.failed:,} failed", BAD)]
    done += [Segment(f", {view.left:,} left")]
    groups: list[tuple[int, list[Segment]]] = [(0, done)]
    if view.bytes_done or view.received:
        groups.append((2, [Segment(_of(view.bytes_done, view.bytes_total, estimated=view.estimated))]))
    if view.received:
        groups.append((1, [Segment(f"{human(view.speed)}/s", BOLD)]))
        groups.append((5, [Segment(f"mean {human(view.mean)}/s", DIM)]))
    if view.stopping:
        groups.append((3, [Segment("stopping, every byte is kept", WARN)]))
    elif view.seconds_left is not None and view.left:
        groups.append((3, [Segment(f"{'~' if view.estimated else ''}{clock(view.seconds_left)} left", BOLD)]))
    groups.append((6, [Segment(f"{clock(view.seconds)} so far", DIM)]))
    while len(groups) > 1 and sum(_wide(group) + len(dot) for _, group in groups) - len(dot) > width:
        groups.remove(max(groups, key=lambda group: group[0]))
    line: Line = []
    for _, segments in groups:
        line += [Segment(dot, DIM), *segments] if line else segments
    rest = width - _wide(line) - 6
    if view.bytes_total and rest >= 10:
        share = min(view.bytes_done / view.bytes_total, 1.0)
        line += [Segment(" "), *_bar(share, min(rest, 60), unicode), Segment(f" {_percent(share)}")]
    return _within(line, width)


def _wide(line: Line) -> int:
    return sum(cell_len(segment.text) for segment in line)


def _within(line: Line, width: int) -> Line:
    """The line, or as much of it as a very narrow terminal takes."""
    return line if _wide(line) <= width else [Segment(_fit("".join(segment.text for segment in line), width))]


class _Columns:
    """Where the columns of the running files stand: the name and the bar share what the figures leave."""

    def __init__(self, width: int, *, notes: bool) -> None:
        # Figures: percent 4, size 9, speed or what is done 12, time left 8, connections and attempt 8 or 15.
        self.size = 9 if width >= 60 else 0
        self.left = 8 if width >= 70 else 0
        self.note = (15 if width >= 110 else 8) if notes and width >= 79 else 0
        self.width = width
        rest = width - 2 - 5 - 13 - sum(column + 1 for column in (self.size, self.left, self.note) if column)
        self.bar = min(rest // 3, 40) if rest >= 24 else 0
        self.name = max(min(rest - self.bar - 1, 64), 4)


def _file(row: Running, at: _Columns, unicode: bool) -> Line:
    line = [Segment("  "), Segment(name_in(row.name, at.name) + " ")]
    share = min(row.have / row.total, 1.0) if row.total else None
    if at.bar:
        line += [*_bar(share or 0.0, at.bar, unicode), Segment(" ")]
    line.append(Segment(_percent(share) if share is not None else "    "))
    if at.size:
        line.append(Segment(" " + human(row.total if row.total is not None else row.have).rjust(at.size), DIM))
    if row.doing:
        line.append(Segment(" " + row.doing.rjust(12), WARN))
    else:
        line.append(Segment(f" {human(row.speed)}/s".rjust(13)))
    if at.left:
        known = row.total is not None and row.speed >= 1 and not row.doing
        left = clock((row.total - row.have) / row.speed) if known and row.total is not None else ""
        line.append(Segment(" " + _fit(left, at.left).rjust(at.left), DIM))
    if at.note:
        notes = [f"{row.connections}{'×' if unicode else 'x'}"] if row.connections > 1 else []
        notes += [f"{'attempt' if at.note > 8 else 'try'} {row.broken + 1}"] if row.broken else []
        line.append(Segment(" " + _fit(" ".join(notes), at.note), WARN if row.broken else DIM))
    return _within(line, at.width)


def _waits(row: Waiting, width: int) -> Line:
    what = row.name if row.files == 1 else f"{row.files} files"
    why = f" ({row.why})" if row.why else ""
    text = clean(f"  {what} from {row.origin}: next attempt in {clock(row.seconds)}{why}")
    return [Segment(_fit(text, width), WARN)]


def _bar(share: float, width: int, unicode: bool) -> Line:
    full = int(share * width + 1e-9)
    if not unicode:
        return [Segment("#" * full, BUSY), Segment("." * (width - full), DIM)]
    style = GOOD if share >= 1 else BUSY
    return [Segment("━" * full, style), Segment("─" * (width - full), DIM)]


def _percent(share: float) -> str:
    # Not 100 before the last byte is here.
    return f"{int(share * 100):3d}%"


def _of(count: int, total: int | None, *, estimated: bool) -> str:
    if total is None:
        return human(count)
    have, have_unit = human(count).split()
    of, unit = human(total).split()
    about = "~" if estimated else ""
    return f"{have} of {about}{of} {unit}" if have_unit == unit else f"{have} {have_unit} of {about}{of} {unit}"


def clean(text: str) -> str:
    """`text` without anything that a terminal would act upon."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _fit(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"


@lru_cache(maxsize=4096)
def name_in(name: str, width: int) -> str:
    """A name in exactly `width` cells; of a long one the folders go first, then the middle."""
    name = clean(name)
    _, slash, base = name.rpartition("/")
    if slash and cell_len(name) > width:
        name = f"…/{base}"
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    head = width // 2
    tail = width - 1 - head
    return set_cell_size(_cells(name, head) + "…" + _cells(name, tail, from_end=True), width)


def _cells(text: str, width: int, *, from_end: bool = False) -> str:
    """As much of one end of `text` as fits into `width` cells."""
    used = count = 0
    for character in reversed(text) if from_end else text:
        used += get_character_cell_size(character)
        if used > width:
            break
        count += 1
    return text[len(text) - count :] if from_end else text[:count]
