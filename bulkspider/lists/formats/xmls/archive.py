"""The file list of an item of the Internet Archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from msgspec.structs import replace

from bulkspider.entries.entry import EntryError
from bulkspider.lists.formats.row import FormatInput, Reader, Row, digests_of
from bulkspider.lists.formats.xmls.elements import files
from bulkspider.regex import regex

_IA_LIST = regex(r"(.+)_files\.xml(?:\.gz)?")


class ArchiveFiles(Reader):
    """`ID_files.xml` of an item of the Internet Archive. The base is the folder of the item that its name says."""

    def __init__(self, given: FormatInput) -> None:
        super().__init__(given)
        item = _IA_LIST.fullmatch(os.path.basename(given.path))
        self._base = given.base or (f"https://archive.org/download/{quote(item[1])}/" if item else None)

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        if self._base is None:
            what = "which item of archive.org is it? Its list should be called ID_files.xml"
            self._given.note(1, EntryError(what, "or say --base https://archive.org/download/ID/"))
            return
        given = replace(self._given, base=self._base)
        for line, elements in files(given.note, blocks):
            if not line:
                continue
            attributes = elements[0][1]
            name = attributes.get("name", "")
            texts = {tag: text.strip() for tag, _, text in elements[1:]}
            if texts.get("private") == "true":
                self._passed.add(line, "a private file cannot be fetched")
                continue
            digests, others = digests_of((kind, texts[kind]) for kind in ("md5", "sha1", "crc32") if texts.get(kind))
            size = texts.get("size") or None
            if _IA_LIST.fullmatch(name):
                # The list cannot know its own hash and size; what it says of itself is that of an earlier one.
                digests, size = {}, None
            elif others and not digests:
                self._passed.add(line, f"a hash {others[0]} cannot be compared here")
            try:
                yield Row(line, given.below_base(name), given.name(name), size, digests)
            except EntryError as error:
                given.note(line, error)
