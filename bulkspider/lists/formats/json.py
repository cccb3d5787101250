"""Lists in JSON: the files of a Hugging Face repository; records of Zenodo, Figshare and Dataverse; items of a crawl.

Each is a document in which some arrays hold an object for each file. `_objects` finds these while the document is read
in pieces; the classes know the keys of each form.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import quote

import ijson

from bulkspider.entries.entry import EntryError
from bulkspider.entries.names import show
from bulkspider.lists.checking.reader import BOM
from bulkspider.lists.formats.row import FormatInput, Reader, Row, digests_of

# Where the objects of files are: the keys from the top of the document, without arrays.
Places = Collection[tuple[str, ...]]


def _objects(given: FormatInput, blocks: Iterable[bytes], places: Places) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in arrays at these places, or in an object there (key -> file), each with its first line."""
    events: Any = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events)
    keys: list[str | None] = []  # of each object or array around: the key it stands under, None in an array
    kinds: list[str] = []
    key: str | None = None
    builder: Any = None
    depth = begin = 0
    line = 1
    try:
        for piece in _lines(blocks):
            parser.send(piece)
            for event, value in events:
                if builder is not None:
                    builder.event(event, value)
                    depth += (event in ("start_map", "start_array")) - (event in ("end_map", "end_array"))
                    if not depth:
                        yield begin, builder.value
                        builder = None
                elif event == "map_key":
                    key = value
                elif event in ("start_map", "start_array"):
                    if event == "start_map" and kinds and _is_file(keys, kinds[-1], key, places):
                        builder, depth, begin = ijson.ObjectBuilder(), 1, line
                        builder.event(event, value)
                    else:
                        keys.append(key if kinds and kinds[-1] == "start_map" else None)
                        kinds.append(event)
                elif event in ("end_map", "end_array"):
                    keys.pop()
                    kinds.pop()
            del events[:]
            line += piece.endswith(b"\n")
        parser.close()
    except (ijson.JSONError, UnicodeDecodeError) as error:
        what = f"the JSON is damaged or cut off ({str(error).partition(chr(10))[0].strip()})"
        given.note(line, EntryError(what, "download it again"))
    except (SystemError, ValueError):
        # So a number is refused that has more digits than Python reads (sys.get_int_max_str_digits); how, depends on
        # the parser that ijson has here.
        given.note(line, EntryError("a number in the JSON is too long", "download it again"))


def _is_file(keys: list[str | None], kind: str, key: str | None, places: Places) -> bool:
    """An object begins: is it that of a file? In an object of files, its key is the file's name."""
    path = tuple(key for key in keys if key is not None)
    return path in places if kind == "start_array" else path in places and path[-1:] == ("entries",)


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces that end with their line, so that what is found in one is in that line."""
    for block in blocks:
        yield from block.splitlines(keepends=True)


class _Record(Reader):
    """The common base. places: where the files are."""

    places: Places = ()

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        for line, file in _objects(self._given, blocks, self.places):
            try:
                row = self._row(line, file)
            except EntryError as error:
                self._given.note(line, error)
            except (KeyError, TypeError, AttributeError):
                what = f"the object of a file has other keys than expected: {', '.join(file)[:100]}"
                self._given.note(line, EntryError(what, "download the document again"))
            else:
                if row is not None:
                    yield row

    def _row(self, line: int, file: Mapping[str, Any]) -> Row | None:
        """The row of a file, or None for what is no file. Raises KeyError and the like for another form."""
        raise NotImplementedError

    def _digests(self, line: int, stated: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        digests, others = digests_of(stated)
        if others and not digests:
            self._passed.add(line, f"a hash {others[0]} cannot be compared here")
        return digests


class HuggingFace(_Record):
    """`/api/models/ORG/NAME/tree/main?recursive=true`; the base is `https://huggingface.co/ORG/NAME/resolve/main/`."""

    places = ((),)

    def _row(self, line: int, file: Mapping[str, Any]) -> Row | None:
        if file["type"] != "file":
            return None
        path, lfs = file["path"], file.get("lfs") or {}
        # The oid of a file that is not in LFS is git's, which is no hash of the content alone.
        digests = {"sha256": lfs["oid"].removeprefix("sha256:")} if lfs else {}
        return Row(
            line, self._given.below_base(path), self._given.name(path), lfs.get("size", file.get("size")), digests
        )


class Zenodo(_Record):
    """A record of Zenodo, or of another InvenioRDM, or its list of files."""

    places = (("files",), ("entries",), ("files", "entries"))

    def _row(self, line: int, file: Mapping[str, Any]) -> Row | None:
        name, links = file.get("key") or file["filename"], file["links"]
        # In a record `self` is the content; where there is `content`, `self` is the description.
        url = links.get("content") or links.get("download") or links["self"]
        kind, colon, value = (file.get("checksum") or "").partition(":")
        stated = [(kind, value) if colon else ("md5", kind)] if kind else []
        digests = self._digests(line, stated)
        return Row(line, self._given.link(url), self._given.name(name), file.get("size", file.get("filesize")), digests)


class Figshare(_Record):
    """An article of Figshare, or its list of files."""

    places = (("files",), ())

    def _row(self, line: int, file: Mapping[str, Any]) -> Row | None:
        if file.get("is_link_only"):
            self._passed.add(line, "a link to another site is no file of the article")
            return None
        md5 = file.get("computed_md5") or file.get("supplied_md5")
        digests = {"md5": md5} if md5 else {}
        return Row(
            line, self._given.link(file["download_url"]), self._given.name(file["name"]), file.get("size"), digests
        )


class Dataverse(_Record):
    """A dataset of Dataverse, or the files of one version; the base is the address of the installation."""

    places = (
        *(("data", "latestVersion", "files"), ("data", "files"), ("data",), ("files",), ("datasetVersion", "files")),
        ("latestVersion", "files"),
    )

    def _row(self, line: int, file: Mapping[str, Any]) -> Row | None:
        data = file["dataFile"]
        if file.get("restricted"):
            self._passed.add(line, "a restricted file needs a token (header:X-Dataverse-key=…)")
        name, size, query = data.get("filename") or file["label"], data.get("filesize"), ""
        if data.get("originalFileName"):
            # A table is kept in two forms; the hash is that of the file as it was given.
            name, size, query = data["originalFileName"], data.get("originalFileSize"), "?format=original"
        if file.get("directoryLabel"):
            name = f"{file['directoryLabel']}/{name}"
        checksum = data.get("checksum") or {}
        stated = [(checksum["type"], checksum["value"])] if checksum else []
        if not stated and data.get("md5"):
            stated = [("md5", data["md5"])]
        url = self._given.below_base(f"api/access/datafile/{quote(str(data['id']))}") + query
        return Row(line, url, self._given.name(name), size, self._digests(line, stated))


class Items(Reader):
    """Items that a crawl has exported: JSON Lines, or one JSON array; one of their fields holds URLs.

    An item with several URLs gives as many rows. All its other fields are copied into the rows.
    """

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        for line, item in self._items(blocks):
            try:
                yield from self._rows_of(line, item)
            except EntryError as error:
                self._given.note(line, error)

    def _items(self, blocks: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
        blocks = iter(blocks)
        first = next(blocks, b"")
        blocks = chain([first], blocks)
        if first.removeprefix(BOM).lstrip()[:1] == b"[":
            yield from _objects(self._given, blocks, ((),))
            return
        for number, text in enumerate(_whole_lines(blocks), start=1):
            if not text.strip():
                continue
            try:
                yield number, json.loads(text.removeprefix(BOM) if number == 1 else text)
            except (ValueError, RecursionError):
                self._given.note(number, EntryError("this is not JSON", "write one item per line, as -O x.jsonl does"))

    def _rows_of(self, line: int, item: Any) -> Iterator[Row]:
        if not isinstance(item, dict):
            raise EntryError("this is no item", "write one JSON object per line, as -O x.jsonl does")
        url_field, name_field = self._given.url_field or "url", self._given.name_field
        urls = _texts(url_field, _field(item, url_field))
        if not urls:
            self._passed.add(line, f"an item without {url_field} has no file")
        names = _texts(name_field, _field(item, name_field)) if name_field else []
        extra = {key: value for key, value in item.items() if key not in (url_field, name_field)}
        if name_field and not names and urls:
            raise EntryError(f"the item has no {show(name_field)}", "correct name_field, or leave it out")
        if len(names) > 1 and len(names) != len(urls):
            raise EntryError(
                f"{len(urls)} URLs and {len(names)} names", "give as many names as URLs, or one for a folder"
            )
        for at, url in enumerate(urls):
            name = names[at] if len(names) == len(urls) else ""
            link = self._given.link(url.strip())
            if names and not name:
                name = f"{names[0].rstrip('/')}/{self._given.naming(link)}"
            yield Row(line, link, name, extra=extra)


def _field(item: Any, path: str) -> Any:
    """The value of a field; `a.b` is b of a, unless there is a field of that name."""
    if path in item:
        return item[path]
    for key in path.split("."):
        item = item.get(key) if isinstance(item, dict) else None
    return item


def _texts(field: str, value: Any) -> list[str]:
    """One text, or several; of results of a files pipeline their URLs."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    texts = []
    for each in values:
        text = each.get("url") if isinstance(each, dict) else each
        if not isinstance(text, str):
            raise EntryError(f"{show(field)} is neither a text nor a list of texts", "name another field")
        texts.append(text)
    return texts


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest
