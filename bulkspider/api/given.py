"""Checks the arguments of `fetch` before the child process is started, and makes lines of JSON of the entries.

A wrong argument raises TypeError or ValueError at once; the values of an entry are checked by the child process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bulkspider.text import visible

Entry = Mapping[str, Any] | tuple[str, str]
Entries = Iterable[Entry | str] | str | os.PathLike[str]

_WANTED = "a list of dicts, pairs (name, url) or URLs"
TOLD_CHARACTERS = 100


def list_file(entries: object) -> str | None:
    """The absolute path of the list file that is given; None where entries are. Raises TypeError, ValueError."""
    if not isinstance(entries, (str, os.PathLike)):
        check_entries(entries)
        return None
    name = os.fsdecode(entries)
    shown = visible(name)[:TOLD_CHARACTERS]
    if "://" in name and not os.path.exists(name):
        raise ValueError(f"entries={shown!r}: this is one URL; write a list, [{shown!r}]")
    if not name or not os.path.exists(name):
        raise ValueError(f"entries={shown!r}: no such list file; give the path of one, or {_WANTED}")
    if os.path.isdir(name):
        raise ValueError(f"entries={shown!r}: this is a folder; give the path of a list file, or {_WANTED}")
    return os.path.abspath(name)


def check_entries(entries: object) -> None:
    """Raises TypeError for what is no list of entries, or is one entry in the place of a list."""
    if isinstance(entries, Mapping):
        raise TypeError("entries: this is one dict; write a list, [{…}]")
    if hasattr(entries, "__aiter__"):
        raise TypeError(f"entries: an async iterable is not read here; give {_WANTED}")
    if isinstance(entries, (str, bytes, bytearray, memoryview)) or not isinstance(entries, Iterable):
        raise TypeError(f"entries: {_WANTED}, not {type(entries).__name__}")
    if isinstance(entries, tuple) and len(entries) == 2 and isinstance(entries[0], str) and "://" not in entries[0]:
        raise TypeError("entries: this is one pair (name, url); write a list, [(name, url)]")


def output_folder(output: object) -> str:
    """The absolute path. Raises TypeError, ValueError."""
    if not isinstance(output, (str, bytes, os.PathLike)):
        raise TypeError(f"output: the path of a folder, not {type(output).__name__}")
    folder = os.fsdecode(output)
    if not folder:
        raise ValueError("output='': the path of a folder; '.' is the current one")
    path = os.path.abspath(folder)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise ValueError(f"output={visible(folder)!r}: this is a file, and the output has to be a folder")
    return path


def row_of(entry: object, number: int) -> Mapping[str, Any]:
    """An entry in any of its forms. Raises TypeError for another type; the values are checked by the child process."""
    if isinstance(entry, str):
        return {"url": entry}
    if isinstance(entry, (tuple, list)):
        if len(entry) != 2:
            raise TypeError(f"entry {number}: a pair (name, url) has two values, not {len(entry)}")
        return {"name": entry[0], "url": entry[1]}
    if not isinstance(entry, Mapping):
        raise TypeError(f"entry {number}: a dict, a pair (name, url) or a URL, not {type(entry).__name__}")
    return entry


def rows(entries: Iterable[Entry | str]) -> Iterator[str]:
    """Entries as lines of JSON. Raises TypeError for what is no entry."""
    for number, entry in enumerate(entries, 1):
        row = row_of(entry, number)
        try:
            yield json.dumps(dict(row), default=_path)
        except (TypeError, ValueError) as error:
            raise TypeError(f"entry {number}: {error}") from None


def plain_settings(settings: object) -> dict[str, Any]:
    """Settings as plain values that can be sent to another process. Raises TypeError."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings: a dict, not {type(settings).__name__}")
    return {str(name): _plain(name, value) for name, value in settings.items()}


def _plain(name: object, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=_path))
    except (TypeError, ValueError):
        raise TypeError(
            f"setting {name}={value!r}: only plain values reach the process of the crawl; give a function or class by "
            "its name, 'package.module.name'"
        ) from None


def _path(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise TypeError(f"{value!r} is no plain value")
