"""Credentials: a user name and a password, from a URL or from the netrc file, and as a header field (RFC 7617)."""

from __future__ import annotations

import logging
import netrc
import os
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from w3lib.http import basic_auth_header

logger = logging.getLogger(__name__)


def userinfo(url: str) -> str | None:
    """The Authorization value for `user:password@` in a URL (RFC 7617 §2), None without one."""
    if "@" not in url:
        return None
    raw, _, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = raw.partition(":")
    return basic(unquote_to_bytes(name), unquote_to_bytes(password)) if raw else None


def credentials_for(url: str) -> str | None:
    """The Authorization value for a URL that the user gave: from the URL itself, else from the netrc file."""
    return userinfo(url) or from_netrc(urlsplit(url).hostname or "")


def from_netrc(host: str) -> str | None:
    """The Authorization value for a host named in $NETRC or ~/.netrc. The file's `default` is not used: it would go to
    every host."""
    known = login_of(host)
    return basic(*(word.encode() for word in known)) if known is not None else None


def login_of(host: str) -> tuple[str, str] | None:
    """The user name and the password that the netrc file has for a host."""
    known = _netrc()
    if known is None or host not in known.hosts:
        return None
    login, _, password = known.hosts[host]
    return login, password or ""


def basic(user: bytes, password: bytes) -> str:
    """The value of an Authorization field."""
    # As latin-1, every byte goes through unchanged, whatever encoding the server wants (RFC 7617 §2.1).
    return basic_auth_header(user.decode("latin-1"), password.decode("latin-1"), "latin-1").decode("ascii")


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
