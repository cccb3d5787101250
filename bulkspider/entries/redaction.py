"""Redaction: keeps secrets out of all log records, those of Scrapy included, which logs whole URLs with signatures.

It also escapes control and invisible characters (`text.py`), because records quote lists and servers.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import bulkspider
from bulkspider.entries.urls import redact
from bulkspider.errors import BulkError, UsageError
from bulkspider.text import visible, visible_lines

# Loggers whose records may quote a list or a server. Records of a project's own loggers may hold colours (ESC) on
# purpose.
_QUOTING = ("bulkspider", "bulk", "bulk-dry-run", "scrapy", "twisted", "asyncio", "py")

# Shorter values are not hidden: ordinary words of a text could be equal to them.
SECRET_MIN_CHARACTERS = 6


class RedactingFilter(logging.Filter):
    """Takes secrets out of every record that passes a handler, tracebacks included.

    A mistake of the user (UsageError) is shown as its own sentence, without the traceback that Scrapy would add. brief:
    unexpected errors are shown without a traceback, too; our own commands set it unless the log level is DEBUG.
    """

    brief = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UsageError):
            record.msg, record.args, record.exc_info = f"bulkspider: {record.exc_info[1]}", None, None
        try:
            message = record.getMessage()
        except Exception:  # a broken record: the handler reports it
            return True
        if self.brief and record.exc_info and record.exc_info[1] is not None:
            message = record.msg = (
                f"{message.splitlines()[0] if message else 'error'}: {unexpected(record.exc_info[1])}"
            )
            record.args = record.exc_info = record.exc_text = None
        clean = _clean(record, message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = _formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = _clean(record, record.exc_text)
        return True


def _clean(record: logging.LogRecord, text: str) -> str:
    text = redact(text)
    return visible_lines(text) if record.name.partition(".")[0] in _QUOTING else text


def unexpected(error: BaseException) -> str:
    """One sentence on an unexpected error: what, where, and how to see all of it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(os.path.dirname(bulkspider.__file__))]
    where = "".join(f" in {os.path.basename(frame.filename)}:{frame.lineno}" for frame in (ours or frames)[-1:])
    text = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
    return f"{text}{where}; this should not happen: run it again with -L DEBUG, which shows all, and report it"


def hider(values: Iterable[str], urls: Iterable[str]) -> Callable[[str], str]:
    """A function that takes secrets out of a server's text: what `redact` takes, and the secrets that the server was
    sent, in case it repeats them.

    values: of header fields that were sent. urls: their passwords and signatures are hidden.
    """
    sent = list(values)
    for value in list(sent):
        # For example: Bearer abc; Basic dXNlcjpwYXNz; a=b; c=d
        words = value.replace(";", " ").replace(",", " ").split()
        sent += [part for word in words[len(words) > 1 :] for part in (word, word.partition("=")[2])]
        if words[:1] == ["Basic"]:
            with contextlib.suppress(binascii.Error, ValueError):
                sent += base64.b64decode(words[-1]).decode("utf-8", "replace").split(":", 1)
    for url in urls:
        parts = urlsplit(url)
        sent.append(unquote(parts.netloc.rpartition("@")[0].partition(":")[2]))
        sent += [value for name, value in parse_qsl(parts.query) if redact(f"{name}={value}") != f"{name}={value}"]
    secrets = {value for value in sent if len(value) >= SECRET_MIN_CHARACTERS}
    secrets |= {quote(value, safe="") for value in secrets}

    def hide(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return redact(text)

    return hide


def be_brief() -> None:
    """From now on no log line has a traceback."""
    _filter.brief = True


_formatter = logging.Formatter()
_filter = RedactingFilter()


def guard_logs() -> None:
    """Adds the filter to every handler of the root logger; may be called again when handlers have changed."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_filter)


def error_of(error: BulkError) -> dict[str, Any]:
    """An error as plain data, safe to show."""
    return {
        "code": error.code,
        "message": visible(redact(error.message)),
        "http_status": error.http_status,
        "permanent": error.permanent,
    }
