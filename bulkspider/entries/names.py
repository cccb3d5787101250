"""Which names a list may give its files, and when two of them are one.

A name becomes a path below the output folder, on any file system, beside files of our own. So it is refused when it
could leave the folder, when some system would read it as another name or as a device, when it is too long for our
suffixes, or when it looks like one of our files. A name is never repaired: under a name that was silently changed its
owner could not find the file. Where a list gives none, `Naming` makes one of the URL. Pure text; `lists/checking/` uses
`fold` to find names that are one file on disk.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, unquote_plus

from msgspec import Struct

from bulkspider.regex import regex
from bulkspider.text import CONTROL, UNSEEN, visible

OWN_FOLDER = ".bulkspider"
# What we append to a name while its file is not finished (docs/resume.md).
OWN_SUFFIXES = (".part", ".part.json", ".part.old", ".part.old.json", ".part.json.tmp", ".part.sync.json")

# One path component holds 255 bytes on ext4, XFS, APFS and NTFS. 17 of them are kept for the longest suffix that
# goes behind a file's name (.part.sync.json: 15 bytes), with a little room.
COMPONENT_MAX_BYTES = 255
LAST_COMPONENT_MAX_BYTES = 238
# PATH_MAX is 4,096 bytes on Linux and has to hold the output folder as well.
NAME_MAX_BYTES = 3000

# Devices of Windows, with any extension: "nul.txt" is the null device (learn.microsoft.com, "Naming Files").
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [device + digit for device in ("com", "lpt") for digit in "0123456789¹²³"]
)
_CONTROL = regex(f"[{CONTROL}]")
_UNSEEN = regex(f"[{UNSEEN}]")
_DRIVE = regex(r"[A-Za-z]:")

RENAME = "rename it in the list"
NAME_IT = "write a name before the URL"

# Parameters of a query that name the file, and the one by which S3 is asked to name it in its answer.
_FILE_PARAMETERS = ("filename", "file", "file_name", "filepath", "path", "name")
_DISPOSITION = regex(r"filename=\"?([^\";]+)", re.IGNORECASE)


class EntryError(ValueError):
    """A list line does not fit. `what` is wrong with it and the `cure`, both for a person to read.

    name: the entry's name, if it was read before the mistake was found.
    """

    def __init__(self, what: str, cure: str, name: str | None = None) -> None:
        super().__init__(f"{what}; {cure}")
        self.what = what
        self.cure = cure
        self.name = name


def show(text: str, limit: int = 80) -> str:
    """`text` in quotes for a message: control characters escaped, the middle of a long one left out."""
    if len(text) > limit:
        text = f"{text[: limit - 20]}…{text[-19:]}"
    return visible(repr(text))


def fold(name: str) -> str:
    """The key under which names collide on a disk that ignores case or Unicode form (NTFS, APFS, exFAT)."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_name(name: str) -> None:
    """Raises EntryError unless `name` is a safe relative path with '/' between its components."""
    if not name:
        raise EntryError("the name is empty", "write a name before the URL")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise EntryError(f"name {show(name)} is not valid Unicode (it has a lone surrogate)", RENAME) from None
    if size > NAME_MAX_BYTES:
        raise EntryError(f"name {show(name)} is {size} bytes long", f"shorten it to {NAME_MAX_BYTES} bytes at most")
    if _CONTROL.search(name):
        raise EntryError(f"name {show(name)} holds a control character", RENAME)
    if unseen := _UNSEEN.search(name):
        # Two names would look alike, or one would look like another: "fdp.exe" like "exe.pdf".
        character = f"U+{ord(unseen[0]):04X} {unicodedata.name(unseen[0], '')}".rstrip()
        raise EntryError(f"name {show(name)} holds a character that is not seen ({character})", RENAME)
    if leaves_folder(name):
        raise EntryError(f"name {show(name)} would leave the output folder", RENAME)
    if "\\" in name:
        raise EntryError(f"name {show(name)} holds a backslash", "write '/' between folder and file")
    if name[0] in "~-":
        raise EntryError(f"name {show(name)} begins with {name[0]!r}, which shells and tools misread", RENAME)
    components = name.split("/")
    for component in components:
        _check_component(name, component)
    size = len(components[-1].encode())
    if size > LAST_COMPONENT_MAX_BYTES:
        raise EntryError(
            f"the file name of {show(name)} is {size} bytes long",
            f"shorten it to {LAST_COMPONENT_MAX_BYTES} bytes; the rest is needed for suffixes such as .part.json",
        )
    if fold(components[-1]).endswith(OWN_SUFFIXES):
        suffix = max((suffix for suffix in OWN_SUFFIXES if fold(name).endswith(suffix)), key=len)
        raise EntryError(f"name {show(name)} ends in {suffix}, which marks our own unfinished files", RENAME)


def leaves_folder(name: str) -> bool:
    """True when some program would read `name` as a path out of its folder: '..', absolute, a drive, a share.

    Percent-encoding is decoded until nothing changes, since another program may decode the name once more.
    """
    while True:
        path = name.replace("\\", "/")
        if path.startswith("/") or _DRIVE.match(path) or ".." in path.split("/"):
            return True
        decoded = unquote(name) if "%" in name else name
        if decoded == name:
            return False
        name = decoded


def _check_component(name: str, component: str) -> None:
    if not component:
        raise EntryError(f"name {show(name)} has an empty part beside a '/'", "write one '/' between two names")
    if component != component.strip() or component.endswith("."):
        # Windows drops a trailing dot or blank, and 'a.' becomes 'a'.
        raise EntryError(f"a part of name {show(name)} begins with a blank or ends with a dot or blank", RENAME)
    folded = fold(component)
    if folded == OWN_FOLDER:
        raise EntryError(f"name {show(name)} lies in {OWN_FOLDER}, which bulkspider keeps for itself", RENAME)
    if folded.partition(".")[0].rstrip() in _DEVICES:
        raise EntryError(f"a part of name {show(name)} is a device on Windows", RENAME)
    size = len(component.encode())
    if size > COMPONENT_MAX_BYTES:
        raise EntryError(
            f"a part of name {show(name)} is {size} bytes long", f"shorten it to {COMPONENT_MAX_BYTES} bytes at most"
        )


class Naming(Struct, frozen=True):
    """How a URL without a name is named: by the last part of its path, or by all of it without its first `cut` folders.

    by: "last" or "path". With "path" the last part comes from the query if that names the file (`?filename=a.tif`), so
    that URLs such as `download?file=…` do not all get one name. An answer of a server never names a file.
    """

    by: str = "last"
    cut: int = 0

    def __call__(self, url: str) -> str:
        """The name. Raises EntryError when the URL gives none."""
        if self.by == "last":
            return name_of_url(url)
        address, _, query = url.partition("#")[0].partition("?")
        path = _decoded(address.partition("://")[2].partition("/")[2] if "://" in address else address)
        folder, _, last = path.strip("/").rpartition("/")
        return self.shorten(f"{folder}/{_file_in(query) or last}".lstrip("/"))

    def of_path(self, path: str) -> str:
        """The name of a path that a list gives instead of a URL; it is not percent-encoded."""
        return path.rpartition("/")[2] if self.by == "last" else self.shorten(path.lstrip("/"))

    def shorten(self, path: str) -> str:
        """The path without its first `cut` folders, or without all of them if it has fewer."""
        parts = path.split("/")
        if not parts[-1]:
            raise EntryError("the URL has no path that could name the file", NAME_IT)
        return "/".join(parts[min(self.cut, len(parts) - 1) :])


BY_LAST_PART = Naming()


def name_of_url(url: str) -> str:
    """The last path segment of a bare URL, percent-decoded once."""
    segment = url.partition("?")[0].rpartition("/")[2]
    if not segment:
        raise EntryError("the URL ends in '/' and gives the file no name", NAME_IT)
    return _decoded(segment) if "%" in segment else segment


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise EntryError("the file name in the URL is not UTF-8", NAME_IT) from None


def _file_in(query: str) -> str:
    """The file name in a query; empty when it has none."""
    values = {key.lower(): unquote_plus(value) for key, _, value in (pair.partition("=") for pair in query.split("&"))}
    if named := _DISPOSITION.search(values.get("response-content-disposition", "")):
        return named[1].strip().rpartition("/")[2]
    names = (values[key].rpartition("/")[2] for key in _FILE_PARAMETERS if key in values)
    # A file name has a suffix; `name=me` and `path=/` are something else.
    return next((name for name in names if "." in name.strip(".")), "")
