"""Secrets: to whom they may be shown.

The headers that a list gives go to the entry's own origin only; `user:password@` of a URL and the netrc file become an
Authorization for exactly the host they were written for, hop by hop (RFC 9110 §15.4: a redirect must not carry them
on). Logs show none of them, whoever writes the record: Scrapy logs whole URLs, signatures included.
"""

from __future__ import annotations

import base64
import logging
import netrc
import os
import traceback
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from scrapy.http import Headers

from bulkspider.entry import Entry, origin_of, redact, slot_of
from bulkspider.errors import UsageError

logger = logging.getLogger(__name__)


def add_secrets(headers: Headers, entry: Entry, listed_url: str, request_url: str) -> None:
    """Adds to `headers` what `request_url` may see of an entry's secrets.

    listed_url: the URL or mirror of the list that led to this request. An Authorization that somebody else set, such
    as Scrapy's HttpAuthMiddleware, stands, unless the list itself names another.
    """
    if same_origin(entry.url, request_url):
        for name, value in entry.headers:
            headers[name] = value
    if "Authorization" not in headers:
        credentials = userinfo(listed_url) if same_origin(listed_url, request_url) else None
        credentials = credentials or from_netrc(slot_of(request_url))
        if credentials:
            headers["Authorization"] = credentials


def same_origin(one: str, other: str) -> bool:
    """Scheme, host and port are equal (RFC 9110 §4.3.1)."""
    return one == other or (urlsplit(one).scheme == urlsplit(other).scheme and origin_of(one) == origin_of(other))


def userinfo(url: str) -> str | None:
    """The Authorization value for `user:password@` in a URL (RFC 7617 §2), None without one."""
    if "@" not in url:
        return None
    raw, at, _ = urlsplit(url).netloc.rpartition("@")
    return _basic(unquote_to_bytes(raw)) if at else None


def from_netrc(host: str) -> str | None:
    """The Authorization value for a host named in $NETRC or ~/.netrc; its `default` is for nobody in particular."""
    known = _netrc()
    if known is None or host not in known.hosts:
        return None
    login, _, password = known.hosts[host]
    return _basic(f"{login}:{password or ''}".encode())


@lru_cache(maxsize=1)
def _netrc() -> netrc.netrc | None:
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc.netrc(path)
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None


def _basic(user_and_password: bytes) -> str:
    return "Basic " + base64.b64encode(user_and_password).decode("ascii")


class RedactingFilter(logging.Filter):
    """Takes secrets out of every record that passes a handler, tracebacks included.

    A mistake of the user (UsageError) is told in its own sentence, without the traceback that Scrapy would add. brief:
    so is everything unexpected; our own commands ask for that unless the log level is DEBUG.
    """

    brief = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UsageError):
            record.msg, record.args, record.exc_info = f"bulkspider: {record.exc_info[1]}", None, None
        try:
            message = record.getMessage()
        except Exception:  # a broken record is the handler's to complain about
            return True
        if self.brief and record.exc_info and record.exc_info[1] is not None:
            message = record.msg = (
                f"{message.splitlines()[0] if message else 'error'}: {unexpected(record.exc_info[1])}"
            )
            record.args = record.exc_info = record.exc_text = None
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = _formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def unexpected(error: BaseException) -> str:
    """One sentence on an error that nobody has foreseen: what, where, and how to see all of it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(os.path.dirname(__file__))]
    where = "".join(f" in {os.path.basename(frame.filename)}:{frame.lineno}" for frame in (ours or frames)[-1:])
    text = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
    return f"{text}{where}; this should not happen: run it again with -L DEBUG, which shows all, and report it"


def be_brief() -> None:
    """From now on no log line has a traceback."""
    _filter.brief = True


_formatter = logging.Formatter()
_filter = RedactingFilter()


def guard_logs() -> None:
    """Puts the filter before every handler there is; may be called again when handlers have changed."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_filter)
