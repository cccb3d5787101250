"""The elements `file` of a document, one by one, as it streams by.

Metalinks and lists of the Internet Archive are flat: an element `file` with a few elements in it. So expat, the parser
of the standard library, tells the starts and ends of elements and their texts, which is faster than a tree and knows
every line. Neither form has a document type; one that comes with a DTD is refused, and with it all that entities
can do to a reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from xml.parsers import expat

from bulkspider.entries.entry import EntryError
from bulkspider.lists.formats.row import Note

# What is in an element `file`, itself first: the name of each element, its attributes, and its text up to the first
# element in it. Elements in elements follow in the order of the document.
Elements = list[tuple[str, Mapping[str, str], str]]


class Left(NamedTuple):
    """A block of which others have taken something. lines: how many lines of the document before it are in no block."""

    block: bytes
    lines: int


def files(note: Note, blocks: Iterable[bytes | Left]) -> Iterator[tuple[int, Elements]]:
    """Every element `file` of a document, with its line, and line 0 after every block. What does not parse is noted."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    done: list[tuple[int, Elements]] = []
    elements: Elements = []
    texts: list[str] = []
    last = ""
    known: Mapping[str, str] = {}
    line = passed = 0  # line: that of the file, 0 between two files

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal elements, last, known, line
        if last:
            close()
        if ":" in tag:
            tag = tag.rpartition(":")[2]
        if tag == "file":
            if line:
                done.append((line, elements))
            elements = []
            line = parser.CurrentLineNumber + passed
        if line:
            last, known = tag, attributes
            texts.clear()

    def close() -> None:
        """The last element has all of its own text: another one begins in it, or it ends."""
        nonlocal last
        elements.append((last, known, texts[0] if len(texts) == 1 else "".join(texts)))
        last = ""

    def end(tag: str) -> None:
        nonlocal line
        if last:
            close()
        if line and (tag == "file" or tag.endswith(":file")):
            done.append((line, elements))
            line = 0

    def refuse(*_: object) -> None:
        raise EntryError("the document has a DTD, which is not read", "remove the line <!DOCTYPE …>")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        for block in blocks:
            if isinstance(block, Left):
                block, passed = block
            parser.Parse(block, False)
            yield from done
            done.clear()
            yield 0, []  # a block is read
        parser.Parse(b"", True)
        yield from done
    except expat.ExpatError as error:
        yield from done
        what = f"the XML is damaged or cut off ({expat.ErrorString(error.code)})"
        note(error.lineno + passed, EntryError(what, "download it again"))
    except EntryError as error:
        yield from done
        note(parser.CurrentLineNumber + passed, error)
