"""aria2's input file (`aria2c -i`), read as a list of ours.

    https://example.org/a.iso<TAB>https://mirror.example.net/a.iso
      out=isos/a.iso
      checksum=sha-256=9f86…

Each line of URIs with the options below it is a `Row`. Options that have no effect here give a warning. It opens no
file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from bulkspider.entries.entry import EntryError, check_name, name_of_url, redact
from bulkspider.entries.fields import SEGMENTS_MAX, Fields
from bulkspider.entries.names import show
from bulkspider.lists.checking.copy import lines_of
from bulkspider.lists.formats.row import Note, Passed, Row
from bulkspider.regex import regex
from bulkspider.text import nearest

# aria2's names of the hashes that we know. Others (sha-224, sha-384) cannot be compared here.
_DIGESTS = {"md5": "md5", "sha-1": "sha1", "sha-256": "sha256", "sha-512": "sha512", "adler32": "adler32"}
_OTHER_DIGESTS = ("sha-224", "sha-384")

_TAKEN = (
    *("checksum", "dir", "header", "http-passwd", "http-user", "max-connection-per-server", "out"),
    *("referer", "split", "user-agent"),
)

# Options for what bulkspider does anyway: no warning.
_ALWAYS = {
    *("allow-piece-length-change", "always-resume", "async-dns", "check-integrity", "conditional-get", "continue"),
    *("enable-http-keep-alive", "enable-http-pipelining", "enable-mmap", "force-save", "gid", "http-accept-gzip"),
    *("http-auth-challenge", "max-mmap-limit", "min-split-size", "no-file-allocation-limit", "piece-length"),
    *("realtime-chunk-checksum", "reuse-uri", "save-not-found", "stream-piece-selector", "uri-selector", "use-head"),
    *("content-disposition-default-utf8", "keep-unfinished-download-result", "remove-control-file", "http-no-cache"),
}

_PROXY = "set http_proxy and https_proxy in the environment"
_ATTEMPTS = "-s BULK_RETRY_TIMES=N holds for all files"
_COOKIES = "write header=Cookie: NAME=VALUE"
# Options that work differently here, or not at all: the text of the warning.
_ELSEWHERE = {
    "allow-overwrite": "what is in the way is kept as NAME.old",
    "auto-file-renaming": "what is in the way is kept as NAME.old",
    "check-certificate": "-s DOWNLOAD_VERIFY_CERTIFICATES=False holds for all files",
    "connect-timeout": "-s BULK_CONNECT_TIMEOUT=SECONDS holds for all files",
    "dry-run": "--dry-run holds for all files",
    "file-allocation": "-s BULK_PREALLOCATE=1 holds for all files",
    "hash-check-only": "--verify holds for all files",
    "load-cookies": _COOKIES,
    "lowest-speed-limit": "-s BULK_MIN_SPEED=N holds for all files",
    "max-download-limit": "--rate and --rate-per-host limit all files together, or those of a host",
    "max-file-not-found": "404 is final at once",
    "max-resume-failure-tries": _ATTEMPTS,
    "max-tries": _ATTEMPTS,
    "no-netrc": "NETRC=/dev/null in the environment holds for all files",
    "parameterized-uri": "write one URI for each file",
    "pause": "remove the entry to leave the file out",
    "remote-time": "-s BULK_REMOTE_TIME=1 holds for all files",
    "retry-wait": "-s BULK_RETRY_DELAY=SECONDS holds for all files",
    "timeout": "-s BULK_STALL_TIMEOUT=SECONDS holds for all files",
    **dict.fromkeys(
        [f"{scheme}-proxy{what}" for scheme in ("all", "http", "https", "ftp") for what in ("", "-user", "-passwd")],
        _PROXY,
    ),
    "no-proxy": "set no_proxy in the environment",
    "proxy-method": _PROXY,
}
# Options of BitTorrent, Metalink, FTP and aria2's remote control.
_NOT_HTTP = regex(
    r"(?:bt|ftp|metalink|rpc|ssh)-[a-z0-9-]+|follow-(?:torrent|metalink)|seed-(?:ratio|time)|pause-metadata"
    r"|index-out|select-file|max-upload-limit|enable-peer-exchange"
)
_KNOWN = {*_TAKEN, *_ALWAYS, *_ELSEWHERE}
_SCHEME = regex(r"([A-Za-z][A-Za-z0-9+.-]*):")


class Aria2Form:
    """Reads an input file line by line. note: called for every bad line. root: the output folder. where: name of the
    file for messages.

    warnings: sentences on options that are ignored, each once; complete when all was read.
    """

    def __init__(self, note: Note, root: str | None = None, where: str = "") -> None:
        self._note = note
        self._where = where
        self._root = os.path.abspath(root) if root else None
        self._number = 0
        self._begun: _Item | None = None
        self._passed = Passed(where)

    def rows(self, blocks: Iterable[bytes]) -> Iterator[Row]:
        """The entries of a file."""
        for lines in lines_of(blocks, self._where):
            for raw in lines:
                self._number += 1
                yield from self._read(raw)
        yield from self._end()

    @property
    def warnings(self) -> list[str]:
        return self._passed.warnings

    def _read(self, raw: bytes) -> Iterator[Row]:
        text = _text(raw)
        if self._number == 1:
            text = text.removeprefix("\ufeff")
        stripped = text.strip()
        if not stripped or text[0] == "#":
            return
        if text[0] in " \t":
            self._option(stripped)
            return
        yield from self._end()
        self._begun = _Item(self._number)
        try:
            self._begun.uris = self._uris(stripped)
        except EntryError as error:
            self._refuse(error)

    def _end(self) -> Iterator[Row]:
        """The row of the entry that was begun."""
        begun, self._begun = self._begun, None
        if begun is None or begun.refused:
            return
        try:
            yield begun.row()
        except EntryError as error:
            self._note(begun.line, error)

    def _refuse(self, error: EntryError) -> None:
        assert self._begun is not None
        if not self._begun.refused:
            error.name = error.name or self._begun.name
            self._note(self._number, error)
        self._begun.refused = True

    def _pass(self, what: str) -> None:
        self._passed.add(self._number, what)

    def _uris(self, text: str) -> list[str]:
        uris = []
        for uri in filter(None, map(str.strip, text.split("\t"))):
            scheme = _SCHEME.match(uri)
            if scheme is not None and scheme[1].lower() in ("http", "https"):
                uris.append(uri)
            elif scheme is None or len(text.split("\t")) == 1:
                what = f"{show(redact(uri), 60)} is no http or https URI"
                raise EntryError(what, "bulkspider fetches these two only; begin an option's line with a blank")
            else:
                self._pass(f"mirror {scheme[1]}://… is passed over; only http and https are fetched")
        if not uris:
            raise EntryError("there is no http or https URI in this line", "add one, separated by a TAB")
        return uris

    def _option(self, text: str) -> None:
        if self._begun is None:
            self._note(self._number, EntryError("an option before the first URI", "write it below the URI's line"))
            return
        key, equals, value = (part.strip() for part in text.partition("="))
        key = key.removeprefix("--").lower()
        try:
            if not equals:
                raise EntryError(f"option {show(text, 40)} has no value", "write NAME=VALUE")
            self._take(key, value)
        except EntryError as error:
            what = error.what if error.what.startswith("option") else f"option {key}: {error.what}"
            self._refuse(EntryError(what, error.cure))

    def _take(self, key: str, value: str) -> None:
        item = self._begun
        assert item is not None
        if key in _TAKEN:
            if key == "checksum":
                self._checksum(item, value)
            elif key == "dir":
                item.folder = self._below_root(value)
            else:
                item.take(key, value)
        elif key in _ELSEWHERE:
            self._pass(f"option {key} has no effect; {_ELSEWHERE[key]}")
        elif _NOT_HTTP.fullmatch(key):
            self._pass(f"option {key} has no effect; it is not about http")
        elif key not in _ALWAYS:
            cure = nearest(key, _KNOWN).removeprefix("; ") or "remove it"
            raise EntryError(f"option {show(key, 40)} is not known", cure)

    def _checksum(self, item: _Item, value: str) -> None:
        algorithm, _, digest = value.partition("=")
        name = _DIGESTS.get(algorithm.strip().lower())
        if name is not None:
            Fields().put_digest(name, digest.strip())
            item.digests[name] = digest.strip().lower() if not digest.rstrip().endswith("=") else digest.strip()
        elif algorithm.strip().lower() in _OTHER_DIGESTS:
            self._pass(f"option checksum: {algorithm} cannot be compared here; give sha-256 to have it verified")
        else:
            raise EntryError(f"option checksum={show(value, 40)}", f"write TYPE=HEX, TYPE one of {', '.join(_DIGESTS)}")

    def _below_root(self, value: str) -> str:
        """dir= relative to the output folder; an absolute one must be inside of it."""
        if not os.path.isabs(value):
            folder = os.path.normpath(value)
        elif self._root is not None:
            folder = os.path.relpath(value, self._root)
        else:
            folder = ".."
        if folder.split("/")[0] == "..":
            raise EntryError(
                f"option dir={show(value)} is outside of the output folder", "name by -o a folder that holds it"
            )
        return "" if folder == "." else folder


class _Item:
    """One line of URIs with its options."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.uris: list[str] = []
        self.refused = False
        self.out = ""
        self.folder = ""
        self.digests: dict[str, str] = {}
        self._headers: dict[str, str] = {}
        self._user = self._password = ""
        self._split = self._connections = 0

    @property
    def name(self) -> str | None:
        return "/".join(filter(None, [self.folder, self.out])) if self.out else None

    def take(self, key: str, value: str) -> None:
        """Raises EntryError."""
        if key == "out":
            check_name(value)
            self.out = value
        elif key == "header":
            name, colon, content = value.partition(":")
            if not colon:
                raise EntryError("the header has no colon", "write header=NAME: VALUE")
            self._header(name.strip(), content.strip())
        elif key == "referer":
            self._header("Referer", value)
        elif key == "user-agent":
            self._header("User-Agent", value)
        elif key == "http-user":
            self._user = value
        elif key == "http-passwd":
            self._password = value
        elif key == "split":
            self._split = _number(value)
        elif key == "max-connection-per-server":
            self._connections = _number(value)

    def _header(self, name: str, value: str) -> None:
        fields = Fields()
        fields.put_header(name, value)
        if self._headers.setdefault(name, value) != value:
            raise EntryError(f"header {name} is given twice and differs", "keep one of the two")

    def row(self) -> Row:
        url, *mirrors = self.uris
        if self._user and "@" not in url.partition("://")[2].partition("/")[0]:
            scheme, _, rest = url.partition("://")
            url = f"{scheme}://{quote(self._user, safe='')}:{quote(self._password, safe='')}@{rest}"
        name = self.name or (f"{self.folder}/{name_of_url(url)}" if self.folder else "")
        connections = min(filter(None, (self._split, self._connections)), default=0)
        return Row(
            self.line,
            url,
            name,
            digests=self.digests,
            mirrors=mirrors,
            headers=self._headers,
            segments=min(connections, SEGMENTS_MAX) or None,
        )


def _number(value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value) or not int(value):
        raise EntryError(f"{show(value, 40)} is no number of connections", "write 1 or more")
    return int(value)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape").rstrip("\r")
