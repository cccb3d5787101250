"""The display: a View as lines for a terminal of any width.

One line for the whole run, one for each running file as long as they fit, one for each origin that is waited for, and a
count of what did not fit. Files stay in the order in which they were begun, columns stay in their places, and a file
that is done within MIN_AGE_SECONDS gets no line. Pure functions; names from the list are shown as text, never as markup
or control characters.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len, get_character_cell_size, set_cell_size
from rich.segment import Segment
from rich.style import Style

from bulkspider.options import clock, human
from bulkspider.reporting.summary import SummaryLine, failure_line
from bulkspider.text import visible

if TYPE_CHECKING:
    from bulkspider.items import BulkItem
    from bulkspider.reporting.snapshot import Running, View, Waiting

BOLD = Style(bold=True)
DIM = Style(dim=True)
GOOD = Style(color="green")
BUSY = Style(color="cyan")
WARN = Style(color="yellow")
BAD = Style(color="red")
TITLE = Style(bold=True)
STYLES = {"title": TITLE, "warning": WARN, "text": None, "bad": BAD, "cure": WARN, "command": BOLD}

# A file that is done sooner gets no line.
MIN_AGE_SECONDS = 0.3
# Lines that are kept for waiting origins, even if there are more running files than lines.
WAITING_LINES = 4

Line = list[Segment]


def lines(view: View, columns: int, rows: int, *, unicode: bool = True) -> list[Line]:
    """The picture. No line is wider than columns - 1, because some terminals wrap in their last column. A fifth of the
    rows stays free for the log lines above it."""
    width, rows_left = max(columns - 1, 10), max(rows - max(2, rows // 5), 1)
    picture = [_run_line(view, width, unicode)]
    if view.entries == 0:
        return picture
    shown = [row for row in view.running if row.age >= MIN_AGE_SECONDS]
    waiting = sorted(view.waiting, key=lambda row: -row.seconds)
    rows_left -= 1
    kept = min(len(waiting), max(WAITING_LINES, rows_left - len(shown)), rows_left)
    rows_left -= kept
    if not shown or len(shown) > rows_left:
        shown = shown[: max(rows_left - 1, 0)]
        hidden = len(view.running) - len(shown)
    else:
        hidden = 0
    widths = _Columns(width, notes=any(row.connections > 1 or row.broken for row in view.running))
    names = names_in(tuple(row.name for row in shown), widths.name)
    picture += [_file_line(row, name, widths, unicode) for row, name in zip(shown, names, strict=True)]
    if hidden and rows_left:
        speed = sum(row.speed for row in view.running) - sum(row.speed for row in shown)
        words = f"and {hidden} more" if shown else f"{hidden} running"
        picture.append([Segment(_fit(f"  {words}, {human(speed)}/s", width), DIM)])
    picture += [_waiting_line(row, width) for row in waiting[:kept]]
    return picture if unicode else [[_ascii(segment) for segment in line] for line in picture]


def failed(item: BulkItem) -> Line:
    """A failure, as it happens."""
    return [Segment(visible(failure_line(item)), BAD)]


def summary_line(line: SummaryLine) -> Line:
    return [Segment(visible(line.text), STYLES[line.kind])]


def _run_line(view: View, width: int, unicode: bool) -> Line:
    """The line for the whole run. What does not fit is left out, the least important first."""
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
    while len(groups) > 1 and sum(_width(group) + len(dot) for _, group in groups) - len(dot) > width:
        groups.remove(max(groups, key=lambda group: group[0]))
    line: Line = []
    for _, segments in groups:
        line += [Segment(dot, DIM), *segments] if line else segments
    rest = width - _width(line) - 6
    if view.bytes_total and rest >= 10:
        share = min(view.bytes_done / view.bytes_total, 1.0)
        line += [Segment(" "), *_bar(share, min(rest, 60), unicode), Segment(f" {_percent(share)}")]
    return _cut(line, width)


def _width(line: Line) -> int:
    return sum(cell_len(segment.text) for segment in line)


def _cut(line: Line, width: int) -> Line:
    """The line, or as much of it as fits into a very narrow terminal."""
    return line if _width(line) <= width else [Segment(_fit("".join(segment.text for segment in line), width))]


class _Columns:
    """Widths of the columns of the running files, in cells; the name and the bar share what the figures leave."""

    def __init__(self, width: int, *, notes: bool) -> None:
        # Figures: percent 4, size 9, speed or what is done 12, time left 8, connections and attempt 8 or 15.
        self.size = 9 if width >= 60 else 0
        self.left = 8 if width >= 70 else 0
        self.note = (15 if width >= 110 else 8) if notes and width >= 79 else 0
        self.width = width
        rest = width - 2 - 5 - 13 - sum(column + 1 for column in (self.size, self.left, self.note) if column)
        self.bar = min(rest // 3, 40) if rest >= 24 else 0
        self.name = max(min(rest - self.bar - 1, 64), 4)


def _file_line(row: Running, name: str, columns: _Columns, unicode: bool) -> Line:
    line = [Segment("  "), Segment(name + " ")]
    share = min(row.have / row.total, 1.0) if row.total else None
    if columns.bar:
        line += [*_bar(share or 0.0, columns.bar, unicode), Segment(" ")]
    line.append(Segment(_percent(share) if share is not None else "    "))
    if columns.size:
        line.append(Segment(" " + human(row.total if row.total is not None else row.have).rjust(columns.size), DIM))
    if row.doing:
        line.append(Segment(" " + row.doing.rjust(12), WARN))
    else:
        line.append(Segment(f" {human(row.speed)}/s".rjust(13)))
    if columns.left:
        left = clock(row.seconds_left) if row.seconds_left is not None and not row.doing else ""
        line.append(Segment(" " + _fit(left, columns.left).rjust(columns.left), DIM))
    if columns.note:
        notes = [f"{row.connections}{'×' if unicode else 'x'}"] if row.connections > 1 else []
        notes += [f"{'attempt' if columns.note > 8 else 'try'} {row.broken + 1}"] if row.broken else []
        line.append(Segment(" " + _fit(" ".join(notes), columns.note), WARN if row.broken else DIM))
    return _cut(line, columns.width)


def _waiting_line(row: Waiting, width: int) -> Line:
    what = row.name if row.files == 1 else f"{row.files} files"
    why = f" ({row.why})" if row.why else ""
    when = f"next attempt in {clock(math.ceil(row.seconds))}" if row.seconds else "asking whether it works again"
    text = visible(f"  {what} from {row.origin}: {when}{why}")
    return [Segment(_fit(text, width), WARN)]


def _bar(share: float, width: int, unicode: bool) -> Line:
    full = int(share * width + 1e-9)
    if not unicode:
        return [Segment("#" * full, BUSY), Segment("." * (width - full), DIM)]
    style = GOOD if share >= 1 else BUSY
    return [Segment("━" * full, style), Segment("─" * (width - full), DIM)]


def _percent(share: float) -> str:
    # Rounded down: 100 % only with the last byte.
    return f"{int(share * 100):3d}%"


def _of(count: int, total: int | None, *, estimated: bool) -> str:
    if total is None:
        return human(count)
    have, have_unit = human(count).split()
    of, unit = human(total).split()
    about = "~" if estimated else ""
    return f"{have} of {about}{of} {unit}" if have_unit == unit else f"{have} {have_unit} of {about}{of} {unit}"


def _ascii(segment: Segment) -> Segment:
    """The text in ASCII with the same width: Python's own escapes would be wider."""
    text = segment.text.replace("…", "~").encode("ascii", "replace").decode()
    return Segment(set_cell_size(text, cell_len(segment.text)), segment.style)


def _fit(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"


@lru_cache(maxsize=16)
def names_in(names: tuple[str, ...], width: int) -> list[str]:
    """Each name in exactly `width` cells. A long name loses its first folders, as many as needed, where the
    names differ without them; then the text that all names share. A name that stands alone loses its middle."""
    whole = [visible(name) for name in names]
    bases = [name.rpartition("/")[2] for name in whole]
    texts = whole
    if len(set(bases)) == len(set(whole)):
        kept = min((_folders_kept(name, width) for name in whole if cell_len(name) > width), default=0)
        texts = [_without_folders(name, kept) if cell_len(name) > width else name for name in whole]
    long = {text for text in texts if cell_len(text) > width}
    # A single one has nothing in common with others.
    first = _alike(long) if len(long) > 1 else 0
    last = min(_alike({text[::-1] for text in long}), min(map(len, long)) - first) if len(long) > 1 else 0
    return [
        set_cell_size(_shortened(text, width, first, len(text) - last) if text in long else text, width)
        for text in texts
    ]


def _folders_kept(name: str, width: int) -> int:
    """How many of its last folders there is room for."""
    parts = name.split("/")
    return max((kept for kept in range(len(parts) - 1) if cell_len(_without_folders(name, kept)) <= width), default=0)


def _without_folders(name: str, kept: int) -> str:
    """kept: how many of the last folders stay."""
    parts = name.split("/")
    return name if kept >= len(parts) - 1 else "/".join(["…", *parts[-kept - 1 :]])


def _alike(texts: Collection[str]) -> int:
    """The length of the beginning that all of them share."""
    one, other = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _shortened(text: str, width: int, first: int, last: int) -> str:
    """first, last: between these characters it differs from others; if that is possible, they stay."""
    begin, end = first, last
    while begin > 0 and text[begin - 1].isalnum():
        begin -= 1  # shows a whole number, not only its last digit
    while end < len(text) and text[end].isalnum():
        end += 1
    half = width // 2
    for start, stop in ((begin, end), (first, last)):
        if cell_len(text[start:]) <= width - 1:
            tail = max(width - 1 - half, cell_len(text[start:]))
            return _cells(text, width - 1 - tail) + "…" + _cells(text, tail, from_end=True)
        if cell_len(text[:stop]) <= width - 1:
            head = max(half, cell_len(text[:stop]))
            return _cells(text, head) + "…" + _cells(text, width - 1 - head, from_end=True)
        if cell_len(text[start:stop]) <= width - 2 and start > 0 and stop < len(text):
            tail = width - 2 - cell_len(text[start:stop])
            return "…" + text[start:stop] + "…" + _cells(text, tail, from_end=True)
    if first and half > 1:
        # It does not fit: shows its beginning and its end.
        return "…" + _cells(text[first:], half - 1) + "…" + _cells(text, width - 1 - half, from_end=True)
    return _cells(text, half) + "…" + _cells(text, width - 1 - half, from_end=True)


def _cells(text: str, width: int, *, from_end: bool = False) -> str:
    """As much of one end of `text` as fits into `width` cells."""
    used = count = 0
    for character in reversed(text) if from_end else text:
        used += get_character_cell_size(character)
        if used > width:
            break
        count += 1
    return text[len(text) - count :] if from_end else text[:count]
