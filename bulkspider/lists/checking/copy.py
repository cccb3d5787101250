"""The list as bytes: opened, copied once, read again by offset.

The run reads its own copy, so that it does not matter if the list is edited meanwhile, or came from a pipe. Handles
files, stdin and gzip, and explains in one sentence why a list cannot be read. `check.py` gets the lines from here, many
at a time, while they are copied, and parses them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bulkspider.disk.folder.opening import create_temporary
from bulkspider.errors import ListError
from bulkspider.lists.checking.shards import Shard
from bulkspider.regex import regex
from bulkspider.text import visible

BLOCK = 64 * 1024  # bytes; the rows made from one block, about a thousand, stay in the processor's cache
LINE_MAX = 1024 * 1024  # bytes; no entry is that long: a file with such lines is no list
WINDOW_BYTES = 16 * 1024  # bytes; the next line is mostly near, and a small window costs little where it is not

# Bytes that are read of another shard's note; how many other shards a message names.
MOST_NOTE = 1_000
SHOWN_SHARDS = 8
_SHARD = regex(r"shard\.(\d+-of-(\d+))\.json")

_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def shown(path: str) -> str:
    """How messages name the list."""
    return "stdin" if path == "-" else visible(path)


def copy_blocks(blocks: Iterable[bytes], where: str, fd: int) -> Iterator[bytes]:
    """A list in texts of whole lines, each line with a newline; each text was written to `fd` before it is given.

    where: how messages name the list. Raises ListError when it has lines without end, OSError when the copy cannot be
    written.
    """
    return _texts(blocks, where, lambda block: write_block(fd, block))


def write_lines(lines: list[bytes], fd: int) -> bytes:
    """Writes lines without newlines that were made of others; their text, each with its newline. Raises OSError."""
    text = b"\n".join(lines) + b"\n" if lines else b""
    write_block(fd, text)
    return text


def lines_of(blocks: Iterable[bytes], where: str) -> Iterator[list[bytes]]:
    """Blocks of any size as lines without their newlines. where: how messages name the list. Raises ListError."""
    return (text[:-1].split(b"\n") for text in whole_lines(blocks, where))


def whole_lines(blocks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """Blocks of any size as texts of whole lines, each with its newline. Raises ListError."""
    return _texts(blocks, where, lambda _: None)


def _texts(blocks: Iterable[bytes], where: str, keep: Callable[[bytes], None]) -> Iterator[bytes]:
    rest, number = b"", 0
    for block in blocks:
        keep(block)
        end = block.rfind(b"\n") + 1
        text, rest = (rest + block[:end], block[end:]) if end else (b"", rest + block)
        number += text.count(b"\n")
        if len(rest) > LINE_MAX:
            raise ListError(
                f"{where}: line {number + 1} is longer than {LINE_MAX} bytes; give a text file, an entry per line"
            )
        if text:
            yield text
    if rest:
        yield rest + b"\n"


def write_block(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


def read_blocks(path: str) -> Iterator[bytes]:
    """The decompressed bytes of the list. Raises ListError."""
    where = shown(path)
    try:
        with _open(path) as stream:
            head = stream.peek(2)[:2]
            if head in _UTF16:
                raise ListError(f"{where}: the list is UTF-16; save it as UTF-8")
            if head == _ZIP and stream.peek(4)[2:4] == b"\3\4":
                raise ListError(f"{where}: this is a zip file or a workbook; unpack it, or save the table as CSV")
            if path.endswith(".gz") and head not in (_GZIP, b""):
                raise ListError(f"{where}: the list is not gzip; take .gz from its name or compress it")
            source = gzip.GzipFile(fileobj=stream, mode="rb") if head == _GZIP else stream
            while block := source.read(BLOCK):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ListError(f"{where}: the gzip data is damaged or cut off ({error}); compress the list anew") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        raise ListError(f"{where}: there is no such list; correct the path (this is {Path.cwd()})") from None
    except IsADirectoryError:
        raise ListError(f"{where}: this is a folder; give a list file in it") from None
    except OSError as error:
        raise ListError(f"{where}: the list cannot be read: {error.strerror or error}; check its rights") from None


def _open(path: str) -> io.BufferedReader:
    if path != "-":
        return io.BufferedReader(io.FileIO(path))
    if sys.stdin is None:
        raise ListError("stdin is closed; give the list as a file")
    # A duplicate: closing it leaves the process its stdin.
    return io.BufferedReader(io.FileIO(os.dup(sys.stdin.fileno())))


class Copy:
    """The run's copy of the list, read by offset through a small window. Owns its file descriptor."""

    __slots__ = ("_fd", "_start", "_window")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._window = b""
        self._start = 0

    def line(self, at: int) -> bytes:
        """The line that begins at offset `at`, without its newline."""
        begin = at - self._start
        if 0 <= begin < len(self._window):
            end = self._window.find(b"\n", begin)
            if end >= 0:
                return self._window[begin:end]
        size = WINDOW_BYTES
        while True:
            self._window, self._start = os.pread(self._fd, size, at), at
            end = self._window.find(b"\n")
            if end >= 0:
                return self._window[:end]
            if len(self._window) < size:  # the last line has no newline
                return self._window
            size *= 2

    def lines(self, at: int) -> Iterator[tuple[int, bytes]]:
        """All lines from offset `at` on, each with its offset."""
        rest = b""
        position = at
        while block := os.pread(self._fd, BLOCK, position):
            position += len(block)
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield at, line
                at += len(line) + 1
        if rest:
            yield at, rest

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def compare_with_other_shards(directory: int, shard: Shard) -> list[str]:
    """Notes which list this shard was made of. Returns a warning if other shards of the same division were made of
    another.

    directory: open; the copy of the list is there already. Raises OSError."""
    with open(_open_plain(f"list.{shard.writer}", directory), "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    ours = {"list": digest.hexdigest(), "by": shard.by}
    others = []
    for name in sorted(os.listdir(directory)):
        match = _SHARD.fullmatch(name)
        if match is not None and match[1] != shard.writer and match[2] == str(shard.of):
            with contextlib.suppress(OSError, ValueError), open(_open_plain(name, directory), "rb") as file:
                if json.loads(file.read(MOST_NOTE)) != ours:
                    others.append(match[1].partition("-")[0])
    fd, temporary = create_temporary(directory, 0o600)
    with open(fd, "w", encoding="ascii") as note:
        json.dump(ours, note)
    os.replace(temporary, f"shard.{shard.writer}.json", src_dir_fd=directory, dst_dir_fd=directory)
    if not others:
        return []
    some = ", ".join(others[:SHOWN_SHARDS]) + (" …" if len(others) > SHOWN_SHARDS else "")
    told = f"shard {shard} has another list, or another shard_by, than {some} of {shard.of} had in this folder"
    return [f"{told}: entries may be in no shard; run those again with this list"]


def _open_plain(name: str, directory: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
