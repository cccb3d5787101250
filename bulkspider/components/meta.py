"""Bare requests: `meta["bulk"]` of a project's own Request becomes an Entry; and its result, as plain data.

    Request(url, meta={"bulk": {"path": "x.bin", "sha256": "…"}})

Defines the keys, and the folder that their paths are relative to. No requests and no disk here. Everything in
`meta["bulk"]` is plain data, so that JOBDIR and shared queues can store it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from bulkspider.entries.entry import Entry, EntryError, check_name, normal_url
from bulkspider.entries.fields import DIGESTS, Fields
from bulkspider.entries.names import show
from bulkspider.items import BulkItem, Result
from bulkspider.text import nearest

KEYS = ("path", "size", *DIGESTS)
# The key of the result; a request that is tried again, or whose meta was copied, still has the last one.
RESULT = "result"
# The key of our note on the request (`identity.py`).
NOTE = "request"
DEFAULT_STORE = "output"


def entry_of(bulk: object, url: str, *, asked: str | None = None, path: str | None = None) -> Entry:
    """The Entry that `meta["bulk"]` describes. Raises EntryError.

    url: of the request, before any redirect. asked: as in Entry. path: used instead of the key `path`.
    """
    if not isinstance(bulk, Mapping):
        raise EntryError(f"{show(repr(bulk))} is not a dict", 'write {"path": "x.bin"}')
    fields = Fields()
    for key, value in bulk.items():
        if key not in (*KEYS, RESULT, NOTE):
            cure = nearest(str(key), KEYS).removeprefix("; ") or f"use some of {', '.join(KEYS)}"
            raise EntryError(f"unknown key {show(str(key))}", cure)
        if key in DIGESTS or key == "size":
            if value is not None:
                fields.put(key, str(value))
        elif key == "path" and not isinstance(value, str):
            raise EntryError(f"the path {show(repr(value))} is not a text", 'write "path": "x.bin"')
    name = path if path is not None else bulk.get("path")
    if name is None:
        raise EntryError("it has no path", 'write "path": "x.bin"')
    check_name(name)
    return Entry(0, name, normal_url(url), fields.size, fields.digests, asked=asked)


def result_of(item: BulkItem) -> dict[str, Any]:
    """The value of `meta["bulk"]["result"]`."""
    return asdict(Result.of(item))


def store(bulk_store: str | None, files_store: object) -> str:
    """The folder that paths are relative to: BULK_STORE, else FILES_STORE where that is a folder, else `output`."""
    return bulk_store or local_folder(files_store) or DEFAULT_STORE


def local_folder(uri: object) -> str | None:
    """The folder that FILES_STORE names; None when it names none, or a service such as S3."""
    text = str(uri) if uri else ""
    if os.path.isabs(text) or not urlsplit(text).scheme:
        return text or None
    return text.partition("://")[2] if text.startswith("file://") else None
