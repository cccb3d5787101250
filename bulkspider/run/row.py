"""The row of an entry: what the report, the items and the summary say of it."""

from __future__ import annotations

import json
from typing import Any

from bulkspider.disk.finished.line import LedgerLine
from bulkspider.disk.folder.folder import Folder
from bulkspider.entries.entry import Entry, redact
from bulkspider.entries.redaction import error_of
from bulkspider.errors import BulkError, Stopped
from bulkspider.items import BulkItem
from bulkspider.run.download import Download


def row_of(
    entry: Entry,
    folder: Folder,
    status: str = "",
    *,
    download: Download | None = None,
    line: LedgerLine | None = None,
    error: BulkError | None = None,
) -> BulkItem:
    """The row of an entry, from the list, this run and the ledger. An error sets the status: failed, or interrupted for
    a Stopped."""
    item = BulkItem(
        line=entry.line,
        name=entry.name,
        url=redact(entry.url) if download is None else download.shown_url,
        path=folder.place(entry.name),
        status=status,
    )
    if entry.extra is not None:
        item.extra = _without_secrets(json.loads(entry.extra))
    if download is not None:
        download.describe(item)
    if line is not None:
        line.describe(item)
    if error is not None:
        item.status = error.status
        item.error = error_of(error.reason if isinstance(error, Stopped) else error)
        item.server_said = error.server_said
    return item


def _without_secrets(value: Any) -> Any:
    """A value of the list, with the secrets of URLs in it hidden."""
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return redact(value) if isinstance(value, str) else value
