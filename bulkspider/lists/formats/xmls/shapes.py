"""Elements `file` that a program has written all alike, read by a regular expression instead of a parser.

The first of them is learned: what may differ from file to file (the name, the size, a hash, the path of a URL) becomes
a group of the expression, all else must be there letter by letter. What the groups mean is asked from who reads by the
parser: it is given the same element with marks in the places of the groups. So a `Shape` says nothing by itself that
the parser would not say, and is three times as fast. What fits no shape is left to the parser, which counts the lines
on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

from msgspec import Struct

from bulkspider.entries.names import name_of_url
from bulkspider.entries.urls import SAFE, SITE
from bulkspider.lists.checking.plain import PLAIN_NAME, PLAIN_SITE
from bulkspider.lists.checking.reader import BOM, Form, PlainRow
from bulkspider.lists.formats.row import Row
from bulkspider.lists.formats.xmls.elements import Left

# A document whose elements differ that much is left to the parser.
TRIALS_MAX = 48

_FILE_BEGIN, _FILE_END = b"<file", b"</file>"
_RUN_MAX_BYTES = 1024 * 1024
_BLANKS = b" \t\r\n"
_TAG = re.compile(rb'<(/?)([A-Za-z_][\w.-]*)((?:\s+[A-Za-z_][\w.:-]*="[^"<>&]*")*)\s*(/?)>', re.ASCII)
_ATTRIBUTE = re.compile(rb'([\w.:-]+)="([^"]*)"', re.ASCII)
# Attributes that decide what an element means. Others may differ from file to file.
_MEANT = (b"type", b"priority", b"preference", b"piece")
_ANY_VALUE = rb"[ !#-%'-;=?-~]*"
_ANY_TEXT = rb"[ -%'-;=?-~]*"
_HASH = re.compile(rb"[0-9a-f]{8,128}")
_SIZE = rb"(?P<size>[0-9]{1,18})"
# Of plain URLs, with the one entity that URLs need.
_SAFE = SAFE.encode().replace(b"&", b"")
_PATH = rb"/[%b]*(?:&amp;[%b]*)*(?:\?(?!<)[?%b]*(?:&amp;[?%b]*)*)?" % ((_SAFE,) * 4)
_PLAIN_URL = b"(?P<url>(?P<site>" + PLAIN_SITE + b")" + _PATH + b")"
_PLAIN_MIRROR = SITE.encode() + _PATH
# Of other names and URLs, which are looked at closer: printable ASCII, but for quotes and brackets.
_NAME = rb"(?P<name>[A-Za-z0-9_./+=,()@~-]+)"
_URL = rb"https?://[!#-%'-;=?-~]+(?:&amp;[!#-%'-;=?-~]*)*"
_NUMBERED = Form(numbered=True)

# The row of an element that is read by the parser; None where there is anything else to say of it.
Read = Callable[[bytes], Row | None]


class Shape(Struct, frozen=True):
    """pattern: of an element with the blanks before it, which is its first group. groups: what fills `line`, the line
    of its row; before them the folder, the site and the size if rows are `plain`. before, newlines: how many newlines
    are in the blanks before the element, and in all of it."""

    pattern: re.Pattern[bytes]
    groups: tuple[str, ...]
    line: bytes
    plain: bool
    before: int
    newlines: int

    def row(self, found: re.Match[bytes], line: int) -> PlainRow:
        """Of one element. line: that of the blanks before it."""
        line += self.before
        if not self.plain:
            name, *more = found.group(*self.groups)
            text = self.line % (name, line, *more)
            return b"", b"", b"", b"", b"", b"", text.replace(b"&amp;", b"&")
        folder, site, size, name, *more = found.group(*self.groups)
        text = self.line % (name, line, *more)
        return text.replace(b"&amp;", b"&") if b"&" in text else text, name, folder, line, site, size, b""

    def rows(self, found: list[tuple[bytes, ...]], line: int) -> Iterable[PlainRow]:
        """Of what `findall` has found, if rows are plain. line: that of the first element's blanks. A million pass here
        in a second, hence no loop."""
        columns = list(zip(*found, strict=True))
        folders, sites, sizes, names, *more = (columns[self.pattern.groupindex[name] - 1] for name in self.groups)
        first = line + self.before
        numbers = range(first, first + self.newlines * len(found), self.newlines) if self.newlines else repeat(first)
        cells = chain.from_iterable(zip(names, numbers, *more, strict=False))
        text = (self.line + b"\n") * len(found) % tuple(cells)
        lines = text.replace(b"&amp;", b"&").split(b"\n")
        return zip(lines, names, folders, numbers, sites, sizes, repeat(b""), strict=False)


class _Group(Struct, frozen=True):
    """place: among the parts of the pattern. mark: what stands for it in the element that the parser is given."""

    place: int
    kind: str
    mark: bytes


class Lesson:
    """Learns the shape of one element, blanks before it included."""

    def __init__(self, element: bytes, read: Read) -> None:
        self._element = element
        self._parts: list[bytes] = []
        self._groups: list[_Group] = []
        self._marked = b""
        self._line: bytes | None = None
        if element.count(b"\r") == element.count(b"\r\n") and self._takes_all():
            row = read(self._marked.strip())
            self._line = row.plain(name_of_url) if row is not None else None

    def shape(self, *, plain: bool) -> Shape | None:
        """None where elements like this are left to the parser. plain: only of those whose rows are plain."""
        line = self._line
        if line is None or (plain and _NUMBERED.plain(line, 0) is None):
            return None
        parts = [*self._parts, b""]
        order = sorted(
            (line.index(group.mark), number) for number, group in enumerate(self._groups) if group.mark in line
        )
        line = line.replace(b"%", b"%%")
        groups = []
        for _, number in order:
            group = self._groups[number]
            line = line.replace(group.mark, b"%b", 1)
            name = group.kind
            if plain and name == "name":
                parts[group.place] = PLAIN_NAME
            elif plain and name == "url" and "url" not in groups:
                parts[group.place] = _PLAIN_URL
            elif name in ("url", "hash"):
                kind = _PLAIN_MIRROR if plain and name == "url" else parts[group.place]
                name = f"{name}{number}"
                parts[group.place] = b"(?P<%b>%b)" % (name.encode(), kind)
            groups.append(name)
        if any(group.mark in line for group in self._groups) or not line.startswith(b"%b\t1\t%b"):
            return None
        if plain:
            if "size" not in groups:
                parts[-1] = b"(?P<size>)"
            groups = ["folder", "site", "size", *groups]
        return Shape(
            re.compile(b"(" + b"".join(parts) + b")"),
            tuple(groups),
            line.replace(b"\t1\t", b"\t%d\t", 1),
            plain,
            self._element[: self._element.index(b"<")].count(b"\n"),
            self._element.count(b"\n"),
        )

    def _takes_all(self) -> bool:
        place, inside = 0, b""
        for tag in _TAG.finditer(self._element):
            self._take_text(self._element[place : tag.start()], inside)
            if not self._takes_tag(tag):
                return False
            place = tag.end()
            inside = b"" if tag[1] or tag[4] else tag[2]
        return place == len(self._element) and bool(self._groups)

    def _take_text(self, text: bytes, inside: bytes) -> None:
        """inside: the element that began just before the text, empty when one ended there."""
        core = text.strip(_BLANKS)
        if not core:
            self._same(text)
            return
        before, after = text.split(core)
        self._same(before)
        number = len(self._groups)
        if inside == b"url":
            self._group("url", _URL, b"https://marked-%d.example/x" % number)
        elif inside == b"size":
            self._group("size", _SIZE, b"9%017d" % number)
        elif inside == b"hash" and _HASH.fullmatch(core):
            self._group("hash", b"[0-9a-f]{%d}" % len(core), (b"%02x" % number).rjust(len(core), b"f"))
        else:
            self._parts.append(_ANY_TEXT)
            self._marked += core
        self._same(after)

    def _takes_tag(self, tag: re.Match[bytes]) -> bool:
        is_file = tag[2] == b"file" and not tag[1]
        if is_file and self._groups:
            return False  # a file in a file
        place = 0
        for attribute in _ATTRIBUTE.finditer(tag[0]):
            self._same(tag[0][place : attribute.start(2)])
            place = attribute.end(2)
            if is_file and attribute[1] == b"name":
                self._group("name", _NAME, b"marked-name")
            elif attribute[1] in _MEANT:
                self._same(attribute[2])
            else:
                self._parts.append(_ANY_VALUE)
                self._marked += attribute[2]
        self._same(tag[0][place:])
        return not is_file or bool(self._groups)

    def _same(self, text: bytes) -> None:
        self._parts.append(re.escape(text))
        self._marked += text

    def _group(self, kind: str, pattern: bytes, mark: bytes) -> None:
        self._groups.append(_Group(len(self._parts), kind, mark))
        self._parts.append(pattern)
        self._marked += mark


class Shapes:
    """Takes from a document the elements that have a shape, and makes their rows. read: says what one means."""

    def __init__(self, read: Read) -> None:
        self.rows: list[PlainRow] = []
        self._read = read
        self._shapes: dict[int, list[Shape]] = defaultdict(list)  # by their number of tags, the last one used first
        self._last: Shape | None = None
        self._trials = 0
        self._line = 1
        self._began = self._in_comment = False
        self._allowed = self._alike = True

    def take(self, blocks: Iterable[bytes]) -> Iterator[Left]:
        """Gives what is left for the parser. `rows` has the rows made since the last block; the caller takes them and
        puts a new list in its place."""
        rest, passed = b"", 0
        for block in blocks:
            text = rest + block
            end = text.rfind(_FILE_END) + len(_FILE_END)
            if end < len(_FILE_END):
                rest = text
                if len(rest) > _RUN_MAX_BYTES:
                    self._allowed = False  # it is no such document, and could be cut in the middle of a comment
                    yield Left(rest, passed)
                    rest = b""
                continue
            run, rest = text[:end], text[end:]
            if self._is_plain(run) and self._allowed:
                left, lines = self._left(run)
                yield Left(left, passed)
                passed += lines
            else:
                yield Left(run, passed)
                self._line += run.count(b"\n")
        yield Left(rest, passed)

    def _is_plain(self, run: bytes) -> bool:
        """Nothing in it is within a comment. From CDATA sections, document types and instructions on all is left to the
        parser."""
        # A letter alone is looked for ten times as fast.
        instructions = run.count(b"<?") if b"?" in run else 0
        if not self._began:
            instructions -= run.startswith((b"<?xml", BOM + b"<?xml"))
            self._began = True
        self._allowed = self._allowed and not instructions
        if not self._in_comment and (b"!" not in run or b"<!" not in run):
            return True
        place = 0
        while True:
            end = run.find(b"-->" if self._in_comment else b"<!--", place)
            if not self._in_comment and b"<!" in run[place : end if end >= 0 else len(run)]:
                self._allowed = False
            if end < 0:
                return False
            place = end + (3 if self._in_comment else 4)
            self._in_comment = not self._in_comment

    def _left(self, run: bytes) -> tuple[bytes, int]:
        """Makes the rows of a run, and gives what is left of it, with newlines for what was taken within it; and how
        many lines were taken at its end."""
        left: list[bytes] = []
        place = taken = 0
        while place < len(run):
            rows, end, lines = self._taken(run, place)
            self.rows += rows
            self._line += lines
            taken += lines
            place = end
            if place < len(run):
                self._last, skipped = self._shape_at(run, place)
                if skipped:
                    left += b"\n" * taken, skipped
                    taken = 0
                    place += len(skipped)
                    self._line += skipped.count(b"\n")
        return b"".join(left), taken

    def _taken(self, run: bytes, place: int) -> tuple[Iterable[PlainRow], int, int]:
        """The rows of all elements from that place on that have a known shape, where they end, and their lines."""
        line, shape = self._line, self._last
        if self._alike and shape is not None and shape.plain:
            found = shape.pattern.findall(run, place)
            self._alike = sum(len(groups[0]) for groups in found) == len(run) - place
            if self._alike:
                return shape.rows(found, line), len(run), shape.newlines * len(found)
        rows: list[PlainRow] = []
        while place < len(run):
            tags = run.count(b"<", place, run.index(_FILE_END, place))
            if not (shapes := self._shapes[tags]) or (one := shapes[0].pattern.match(run, place)) is None:
                break
            rows.append(shapes[0].row(one, line))
            line += shapes[0].newlines
            place = one.end()
        return rows, place, line - self._line

    def _shape_at(self, run: bytes, place: int) -> tuple[Shape | None, bytes]:
        """The shape of the next element, and what is before it; or None, and what is to be left with the element."""
        end = run.index(_FILE_END, place)
        begin = run.rfind(_FILE_BEGIN, place, end)
        end += len(_FILE_END)
        before = run[place : max(begin, place)].rstrip(_BLANKS)
        if begin < 0 or _FILE_BEGIN in before:
            return None, run[place:end]
        begin = place + len(before)
        element = run[begin:end]
        shapes = self._shapes[element.count(b"<") - 1]
        new = next((shape for shape in shapes if shape.pattern.match(element)), None)
        if new is not None:
            shapes.remove(new)
        elif self._trials < TRIALS_MAX:
            self._trials += 1
            new = self._learned(element)
        if new is None:
            return None, run[place:end]
        shapes.insert(0, new)
        return new, before

    def _learned(self, element: bytes) -> Shape | None:
        lesson = Lesson(element, self._read)
        shapes = (lesson.shape(plain=plain) for plain in (True, False))
        return next((shape for shape in shapes if shape is not None and shape.pattern.match(element)), None)
