"""The start of a walk, which URLs are below it, and which of these the user wants.

Pure text. A URL is below the start if scheme and host are equal and its path begins with that of the start. Both paths
are percent-decoded once before, so that other spellings of `..` or of the same folder are recognised. The rest of the
path is the name of the file; the check of the list decides whether it may be used (`entries/names.py`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from bulkspider.entries.entry import EntryError, redact
from bulkspider.entries.urls import DEFAULT_PORTS, normal_url
from bulkspider.errors import UsageError

DEPTH = 30  # folders below the start: more than any archive has; ends the walk of a folder that links to itself
FOLDER_OF_A_HOST = "index"


def parse_plan(url: str, arguments: Mapping[str, str]) -> Plan:
    """The plan of a walk from `url`, from the arguments `accept`, `reject` and `depth`. Raises UsageError."""
    depth = arguments.get("depth", str(DEPTH))
    if not depth.isdecimal() or len(depth) > 4:
        raise UsageError(f"argument depth={depth}: must be a number of folders below the start")
    wanted = Wanted(_globs(arguments.get("accept")), _globs(arguments.get("reject")))
    return Plan(Start.parse(url), wanted, int(depth))


class Plan(Struct, frozen=True):
    """What a walk shall read. depth: folders below the start at most."""

    start: Start
    wanted: Wanted
    depth: int


class Start(Struct, frozen=True):
    """url: in normal form, as it is requested. site: scheme and host in lower case, with the port where it is not the
    default. path: decoded; it ends in '/' for a folder."""

    url: str
    site: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Start:
        """Raises UsageError."""
        try:
            url = normal_url(text)
            start = cls(url, _site(url), _path(url))
        except EntryError as error:
            raise UsageError(f"{redact(text)}: {error.what}; {error.cure}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{redact(text)}: the path of a start must be UTF-8; begin above it") from None
        return start

    def moved_to(self, url: str) -> Start:
        """The start after a redirect. Raises UsageError unless it is the same folder: only a '/' at the end and https
        may be new."""
        moved = Start.parse(url)
        secure = self.site.replace("http://", "https://", 1)
        if moved.site not in (self.site, secure) or moved.path not in (self.path, f"{self.path}/"):
            raise UsageError(
                f"{redact(self.url)} leads to {redact(url)}; if that is the folder you mean, give this URL instead"
            )
        return replace(moved, url=self.with_credentials(url))

    @property
    def folder_name(self) -> str:
        """The name of the output folder: the last segment of the path, else the host."""
        last = self.path.strip("/").rpartition("/")[2] or urlsplit(self.url).hostname or FOLDER_OF_A_HOST
        return last if last.strip(". ") else FOLDER_OF_A_HOST

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User name and password of the URL, if it has them; they are used for all pages and files below it."""
        parts = urlsplit(self.url)
        return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))

    def with_credentials(self, url: str) -> str:
        """A URL of the start's host, with the user name and password of the start."""
        userinfo, at, _ = urlsplit(self.url).netloc.rpartition("@")
        return url.replace("://", f"://{userinfo}@", 1) if at else url

    def is_on(self, url: str) -> bool:
        """The URL has the start's scheme, host and port."""
        return _site(url) == self.site

    def name_of(self, url: str) -> str | None:
        """The path of a URL below the start, decoded; empty for the start itself, None for a URL elsewhere. Raises
        UnicodeDecodeError when it is not UTF-8."""
        path = _path(url)
        if not self.is_on(url) or not path.startswith(self.path) or ".." in path.split("/"):
            return None
        return path[len(self.path) :]


def _site(url: str) -> str:
    parts = urlsplit(url)
    usual = DEFAULT_PORTS.get(parts.scheme)
    port = f":{parts.port}" if parts.port not in (None, usual) else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _path(url: str) -> str:
    return unquote(urlsplit(url).path, errors="strict") or "/"


class Wanted(Struct, frozen=True):
    """accept, reject: globs. One without '/' is compared with the last part of a name; one that ends in '/' is for
    folders."""

    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """A file of this name is wanted."""
        files = [glob for glob in self.accept if not glob.endswith("/")]
        return (not files or _fits(name, files)) and not _fits(name, self.reject)

    def enters(self, folder: str) -> bool:
        """The page of this folder shall be read. folder: ends in '/'."""
        return not _fits(folder, [glob for glob in self.reject if glob.endswith("/")])


def _globs(text: str | None) -> tuple[str, ...]:
    """From `*.nc,*.h5`."""
    return tuple(glob for part in (text or "").split(",") if (glob := part.strip()))


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(_pattern(glob).search(name) for glob in globs)


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(glob: str) -> re.Pattern[str]:
    if glob not in _PATTERNS:
        # A glob without a folder matches after any '/'.
        anywhere = "/" not in glob.rstrip("/")
        _PATTERNS[glob] = re.compile((r"(?:\A|/)" if anywhere else r"\A") + fnmatch.translate(glob))
    return _PATTERNS[glob]
