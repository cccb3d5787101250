"""The report of a whole job, whichever workers did it: a row for each entry that has its outcome."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkspider.errors import UsageError

FIELDS = ("name", "url", "status", "size", "worker", "time", "code", "message")


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The heading, then one line for each."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS)
    writer.writeheader()
    for row in rows:
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(row)
    yield buffer.getvalue()


FORMS = {".jsonl": json_lines, ".csv": csv_lines}


def write_report(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes them in the form that the suffix says, and returns how many there are; the file that was there stays until
    the new one is complete. Raises UsageError."""
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"{path}: write a name that ends in .jsonl or .csv")
    count = 0

    def counted() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".bulkqueue.", suffix=".tmp")
        with open(fd, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.writelines(FORMS[path.suffix.lower()](counted()))
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return count
