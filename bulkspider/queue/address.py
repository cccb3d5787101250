"""The address of the Redis of a queue, without secrets on the command line, and the client for it.

An address is `redis://HOST/0`, `rediss://…` (TLS), `unix://…`, or `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0`
(`rediss+sentinel://` with TLS), whose master is asked for at each connection. It comes from the argument, from a file
(`@FILE`), or from the environment (`BULK_QUEUE`, which may be `@FILE` as well). A password that it does not have is
looked for in the netrc file.
"""

from __future__ import annotations

import netrc
import os
import re
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from bulkspider.entries.entry import redact
from bulkspider.errors import UsageError
from bulkspider.regex import regex

VARIABLE = "BULK_QUEUE"
SENTINEL = ("redis+sentinel", "rediss+sentinel")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL)
SENTINEL_PORT = 26379
_NAME = regex(r"[\w.-]{1,100}", re.ASCII)


def find_address(given: str | None) -> str | None:
    """The address as given, or of the environment, None for neither. Raises UsageError for a file without one."""
    address = given or os.environ.get(VARIABLE)
    if not address or not address.startswith("@"):
        return address
    try:
        with open(address[1:], encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"queue={address}: {error}") from None
    if len(lines) != 1:
        raise UsageError(f"queue={address}: the file must have one line, the address, as redis://:PASSWORD@HOST/0")
    return lines[0]


def check_address(url: str, job: str | None = None) -> None:
    """Raises UsageError unless this can be the address of a Redis, and `job` (if given) the name of a job, and
    redis-py is there."""
    if url.partition("://")[0] not in SCHEMES or "://" not in url:
        raise UsageError(
            f"queue={redact(url)}: write redis://HOST/0 (or rediss://…, unix://…, redis+sentinel://HOST/SERVICE/0)"
        )
    if job is not None and not _NAME.fullmatch(job):
        raise UsageError(f"job={job}: a name of letters, digits and . _ - is needed")
    try:
        import redis  # noqa: F401
    except ImportError:
        raise UsageError('a queue needs redis-py: pip install "bulkspider[redis]"') from None


def connect(url: str, **options: Any) -> Any:
    """A blocking client. options: of redis-py, beside what the URL says. Raises UsageError for a bad URL."""
    import redis
    import redis.sentinel

    return _client(url, options, redis.Redis, redis.sentinel.Sentinel)


def connect_async(url: str, **options: Any) -> Any:
    """A client for the running asyncio loop, as `connect` otherwise."""
    import redis.asyncio
    import redis.asyncio.sentinel

    return _client(url, options, redis.asyncio.Redis, redis.asyncio.sentinel.Sentinel)


def _client(url: str, options: dict[str, Any], plain: Any, sentinel: Any) -> Any:
    try:
        if url.partition("://")[0] in SENTINEL:
            return _master(url, options, sentinel)
        return plain.from_url(_with_password(url), **options)
    except ValueError as error:
        raise UsageError(f"queue={redact(url)}: {redact(str(error))}") from None


def _master(url: str, options: dict[str, Any], sentinel: Any) -> Any:
    """The master of a service that Sentinels watch."""
    from redis.connection import parse_url

    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    service, _, database = path.partition("/")
    userinfo, _, hosts = netloc.rpartition("@")
    if not service or not hosts:
        raise UsageError(f"queue={redact(url)}: write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0")
    watchers = []
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":")
        if colon and not port.isdecimal():
            raise UsageError(f"queue={redact(url)}: {host} has no valid port")
        watchers.append((name if colon else host, int(port) if colon else SENTINEL_PORT))
    parameters = dict(parse_qsl(query))
    own = {name.removeprefix("sentinel_"): parameters.pop(name) for name in list(parameters) if "sentinel_" in name}
    # The options of the address are for the master, whose host the Sentinels say.
    login = f"{userinfo}@" if userinfo else ""
    same = f"{scheme.partition('+')[0]}://{login}{watchers[0][0]}/{database or '0'}?{urlencode(parameters)}"
    of_master: dict[str, Any] = dict(parse_url(_with_password(same)))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        of_master.pop(name, None)
    timeouts = {name: value for name, value in options.items() if name.startswith("socket_")}
    secure = {"ssl": True} if scheme.startswith("rediss") else {}
    certificates = {name: value for name, value in of_master.items() if name.startswith("ssl_")}
    watching = sentinel(watchers, sentinel_kwargs={**timeouts, **secure, **certificates, **own})
    return watching.master_for(service, **{**of_master, **secure, **options})


def _with_password(url: str) -> str:
    """With the user and password of the netrc file for this host, where the URL has none."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.password is not None or not parts.hostname:
        return url
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        known = netrc.netrc(path).hosts
    except FileNotFoundError:
        return url
    except (OSError, netrc.NetrcParseError) as error:
        raise UsageError(f"{path}: {error}; mend it, or let NETRC name another file") from None
    at = parts.netloc.rpartition("@")[2]
    login, _, password = known.get(at) or known.get(parts.hostname) or ("", None, None)
    if not password:
        return url
    # Redis calls the user without a name `default`.
    user = "" if login == "default" else quote(login, safe="")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{at}").geturl()
