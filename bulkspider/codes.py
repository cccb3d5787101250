"""One table of all error codes (`TABLE`, `HTTP`): what follows from each, what it means, what a person can do.

The engine, the exit status, the summary, docs/reference.md and the tests read it. A new reason for a failure is a new
row here; `errors.py` has the exceptions that carry the codes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from msgspec import Struct


class Kind(enum.Enum):
    """What follows from an error. exit_status: of a run in which nothing worse happened (docs/command.md, "Exit
    status").

    retry: it is tried again in this run. final: it is not, since it would go the same way now; another run may fare
    better. permanent: the same list tried again cannot help. disk: this machine or its file system refuses this file;
    never retried as if it were the network. stop: it refuses every file, or somebody stopped the run; the run of a list
    ends with every byte kept. usage: a list, argument, setting or folder does not fit, and nothing was begun.
    """

    RETRY = "retry", 3, "DownloadFailedError"
    FINAL = "final", 3, "DownloadFailedError"
    PERMANENT = "permanent", 4, "DownloadFailedError"
    # Not an OSError: Scrapy would retry that as if it were the network.
    DISK = "disk", 3, "DownloadCancelledError"
    STOP = "stop", 3, "DownloadCancelledError"
    USAGE = "usage", 1, "DownloadCancelledError"

    def __init__(self, word: str, exit_status: int, exception: str) -> None:
        self.word = word
        self.exit_status = exit_status
        self.exception = exception


class CodeRow(Struct, frozen=True):
    """What is known of one code.

    meaning: as in docs/reference.md (Markdown). cure: what a person can do, empty where nobody knows; a function where
    it depends on whether the host has served other files. own_exception: the name in `scrapy.exceptions` of what a bare
    request fails with, where it is not that of the kind.
    """

    kind: Kind
    meaning: str
    cure: str | Callable[[bool], str]
    own_exception: str = ""

    @property
    def exception(self) -> str:
        """The name in `scrapy.exceptions` of what a bare request without an answer fails with."""
        return self.own_exception or self.kind.exception


def _credentials_or_link(host_works: bool) -> str:
    """Who is served other files by this host does not lack credentials."""
    return "" if host_works else _LINK


_AGAIN = "run the same again"
_TIMEOUT = "DownloadTimeoutError"
_CANCELLED = "DownloadCancelledError"
_LINK = "give credentials, or a fresh link"
_URL = "correct the URL in the list"
_MIDDLEWARE = "look at your middlewares"
_WHO = f"find out who touched the file, then {_AGAIN}"
_STOPS = "the run of a list stops"

TABLE = {
    "list": CodeRow(Kind.USAGE, "the list cannot be used; exit status 1", "correct the lines it names"),
    "usage": CodeRow(
        Kind.USAGE,
        "a setting, argument, URL or checksum file does not fit; exit status 1 (2 for the words of `scrapy bulk`)",
        "correct what it names",
    ),
    "folder_in_use": CodeRow(
        Kind.USAGE, "another run writes there; exit status 1", "wait for it, stop it, or use another folder"
    ),
    "bad_line": CodeRow(Kind.PERMANENT, "a bad line under `bad_lines=skip`", "correct the line in the list"),
    "dns": CodeRow(
        Kind.RETRY,
        "the host name was not found",
        "correct the host name, or check the network",
        "CannotResolveHostError",
    ),
    "connect": CodeRow(Kind.RETRY, "no connection", f"check network and firewall, then {_AGAIN}", _TIMEOUT),
    "no_route": CodeRow(
        Kind.RETRY, "there is no route to the host", f"check this machine's network, then {_AGAIN}", _TIMEOUT
    ),
    "refused": CodeRow(
        Kind.RETRY,
        "the connection was refused",
        f"check host and port, or {_AGAIN} later",
        "DownloadConnectionRefusedError",
    ),
    "lost": CodeRow(
        Kind.RETRY, "the connection broke; the bytes are kept", f"{_AGAIN}; the bytes are kept", "ResponseDataLossError"
    ),
    "headers_timeout": CodeRow(
        Kind.RETRY,
        "no answer within `BULK_HEADERS_TIMEOUT`",
        f"{_AGAIN}; raise BULK_HEADERS_TIMEOUT for slow servers",
        _TIMEOUT,
    ),
    "stall": CodeRow(
        Kind.RETRY, "no byte for `BULK_STALL_TIMEOUT`", f"{_AGAIN}; raise BULK_STALL_TIMEOUT for slow servers", _TIMEOUT
    ),
    "slow": CodeRow(
        Kind.RETRY, "slower than `BULK_MIN_SPEED`", f"{_AGAIN}; lower BULK_MIN_SPEED for slow links", _TIMEOUT
    ),
    "origin_down": CodeRow(
        Kind.FINAL, "the host did not work for `BULK_ORIGIN_PATIENCE`", f"{_AGAIN} when the host works"
    ),
    "tls": CodeRow(Kind.RETRY, "TLS failed, but not the certificate", "check the TLS settings"),
    "no_tls": CodeRow(
        Kind.FINAL,
        "the port speaks no TLS: an https URL of a server that knows http only",
        "write http:// in the list, or the port that speaks TLS",
    ),
    "wants_tls": CodeRow(
        Kind.PERMANENT,
        "the port speaks TLS: an http URL with the port of https",
        "write https:// in the list, or the port of http",
    ),
    "no_network": CodeRow(
        Kind.FINAL,
        "this machine has no way out: no host name resolves, or there is no route",
        f"check this machine's network, DNS and firewall, then {_AGAIN}",
    ),
    "tls_verify": CodeRow(
        Kind.PERMANENT,
        "the certificate does not verify",
        "mend the certificate, or trust its CA: SSL_CERT_FILE=ca.pem in the environment; "
        "if you accept any certificate: -s DOWNLOAD_VERIFY_CERTIFICATES=False",
    ),
    "proxy": CodeRow(Kind.RETRY, "the proxy opened no tunnel, or its address is not valid", "check the proxy settings"),
    "proxy_auth": CodeRow(
        Kind.PERMANENT,
        "the proxy wants a user name and a password (407)",
        "write user:password@ in front of the proxy's host, in http_proxy and https_proxy",
    ),
    "bad_answer": CodeRow(
        Kind.RETRY,
        "what came is no valid HTTP; or its head has more than 256 KiB or 500 lines, more than 20 "
        "interim answers (1xx) came before it, its chunks are tiny",
        f"{_AGAIN}, or ask the server's owner",
    ),
    "bad_url": CodeRow(Kind.PERMANENT, "the URL cannot be requested", _URL),
    "redirect": CodeRow(
        Kind.FINAL,
        "a redirect that cannot be followed: no host, an impossible host name or port, or neither http nor https",
        "ask the server's owner, or correct the URL in the list",
    ),
    "redirect_loop": CodeRow(Kind.FINAL, "too many redirects", "correct the URL, or raise REDIRECT_MAX_TIMES"),
    "insecure_redirect": CodeRow(Kind.FINAL, "from https to http", "give the http URL in the list if you accept that"),
    "private_redirect": CodeRow(
        Kind.PERMANENT,
        "a redirect led from a public host to a private, local or loopback address; nothing was sent there",
        "ask the server's owner; if you accept it: -s BULK_PRIVATE_REDIRECTS=True",
    ),
    "auth": CodeRow(
        Kind.RETRY,
        "`BULK_AUTH` gave no credentials: it raised an error, or did not answer; permanent when the token server "
        "refuses the user, or when what it returned does not fit",
        "correct the user name or password, or look at what BULK_AUTH does",
    ),
    "robots": CodeRow(
        Kind.PERMANENT,
        "robots.txt forbids it, and `ROBOTSTXT_OBEY` is on",
        "ask the site's owner, or set ROBOTSTXT_OBEY=False",
    ),
    "ignored": CodeRow(Kind.FINAL, "a middleware refused the request", _MIDDLEWARE),
    "middleware": CodeRow(Kind.FINAL, "a middleware failed, or answered instead of us", _MIDDLEWARE),
    "dropped": CodeRow(Kind.FINAL, "a spider middleware or the scheduler dropped the request", _MIDDLEWARE),
    "then_failed": CodeRow(
        Kind.FINAL,
        "the file is there and proven; the command of `--then` failed",
        "correct the command; the next run hands the file on without fetching it",
    ),
    "html": CodeRow(
        Kind.FINAL,
        "a web page came where a file was expected",
        "log in or renew the link; a name that ends in .html takes pages",
    ),
    "not_the_file": CodeRow(
        Kind.PERMANENT,
        "the text of an answer came where the name says binary data (`BULK_SNIFF`); kept as `.part.old`",
        "look at what came, in .part.old; log in or renew the link, or say BULK_SNIFF=False if it is right",
    ),
    "not_yet": CodeRow(
        Kind.RETRY,
        "202: the server has accepted the request and is still preparing the file, for longer than "
        "`BULK_ORIGIN_PATIENCE`",
        f"{_AGAIN} later, when the file was staged",
    ),
    "bot_challenge": CodeRow(
        Kind.PERMANENT,
        "a firewall before the site (AWS WAF, Cloudflare) wants a browser to answer its challenge",
        "ask the site's owner for an address meant for programs, or give a mirror in the list",
    ),
    "size_mismatch": CodeRow(
        Kind.FINAL,
        "the server has another length than the list says",
        "correct the size in the list, or ask the server's owner",
    ),
    "digest_mismatch": CodeRow(
        Kind.PERMANENT,
        "the bytes have another hash, twice; or verify found another hash or size",
        "correct the hash in the list, or ask the server's owner; what came is in .part.old or .bad; where only the "
        "server says the hash, BULK_SERVER_DIGEST=warn keeps the file",
    ),
    "unproven": CodeRow(
        Kind.PERMANENT,
        "no proof of the length, under `BULK_REQUIRE_PROOF`",
        "give a size or hash in the list, or set BULK_REQUIRE_PROOF=False",
    ),
    "unstable": CodeRow(
        Kind.FINAL,
        "the object changed again and again, or the answers contradict each other",
        f"{_AGAIN} when the file on the server is at rest",
    ),
    "changed": CodeRow(Kind.RETRY, "the object changed in the middle", _AGAIN),
    "bad_range": CodeRow(
        Kind.RETRY,
        "the server answers a Range wrongly, and a request without Range does not help",
        "give a mirror in the list",
    ),
    "no_progress": CodeRow(
        Kind.RETRY, "the server sends the same bytes again and again, and not the rest", "give a mirror in the list"
    ),
    "missing": CodeRow(Kind.FINAL, "`verify` did not find the file", "run the same without verify=1"),
    "two_urls": CodeRow(
        Kind.PERMANENT,
        "the path belongs to another request of this crawl (another URL, method or body), which is "
        "fetching it or has its file there",
        "give one of them another name",
        _CANCELLED,
    ),
    "two_ways": CodeRow(
        Kind.FINAL,
        'a request with `meta["bulk"]` wants what `BulkFilesPipeline` is fetching',
        "fetch it in one of the two ways",
        _CANCELLED,
    ),
    "no_space": CodeRow(Kind.DISK, "there is no room for the file; it waits for some", f"make room, then {_AGAIN}"),
    "disk_full": CodeRow(Kind.STOP, f"file system or quota full; {_STOPS}", f"make room, then {_AGAIN}"),
    "read_only": CodeRow(Kind.STOP, f"the file system is read-only; {_STOPS}", "mount the file system writable"),
    "io_error": CodeRow(Kind.STOP, f"the disk reports an error; {_STOPS}", "check the disk"),
    "too_large": CodeRow(
        Kind.PERMANENT,
        "the server promises, or sends, more bytes than `BULK_MAX_SIZE` or `BULK_STAGE_MAX` allows or than the whole "
        "file system has; the file takes no room from others",
        "raise BULK_MAX_SIZE (or BULK_STAGE_MAX, where that is named) if the file is right, or use a larger disk where "
        "that is too small; else correct the URL or the size in the list",
    ),
    "file_too_big": CodeRow(Kind.DISK, "the file system cannot hold such a file", "use another file system"),
    "no_permission": CodeRow(Kind.DISK, "no permission in the output folder", "mend owner and mode"),
    "not_regular": CodeRow(Kind.DISK, "a link, folder or device is in the way", "move away what lies there"),
    "no_thread": CodeRow(
        Kind.STOP,
        f"the system gives this process no more threads; {_STOPS}",
        "raise `ulimit -u` or pids.max, or lower CONCURRENT_REQUESTS",
    ),
    "no_memory": CodeRow(
        Kind.STOP, f"there is not enough memory; {_STOPS}", "raise the memory limit, or lower CONCURRENT_REQUESTS"
    ),
    "thread_died": CodeRow(
        Kind.STOP, f"a thread that moves, hashes, flushes or names files ended unexpectedly; {_STOPS}", _AGAIN
    ),
    "too_many_files": CodeRow(Kind.DISK, "too many open files", "raise `ulimit -n`, or lower CONCURRENT_REQUESTS"),
    "disk_error": CodeRow(Kind.DISK, "any other refusal of the file system", f"mend what it says, then {_AGAIN}"),
    "part_in_use": CodeRow(Kind.DISK, "another process writes this part", "wait for the other process"),
    "part_replaced": CodeRow(Kind.DISK, "somebody removed or replaced the part or file meanwhile", _WHO),
    "part_changed": CodeRow(
        Kind.DISK,
        "another program truncated, overwrote or punched the part meanwhile, and did so again when it was fetched anew",
        _WHO,
    ),
    "folder_gone": CodeRow(Kind.STOP, f"the output folder was deleted during the run; {_STOPS}", _AGAIN),
    "file_changed": CodeRow(Kind.DISK, "somebody wrote to the file while it was hashed", _WHO),
    "no_job": CodeRow(
        Kind.USAGE,
        "there is no such job on that Redis, or it was dropped or lost",
        "push its list with `scrapy bulkqueue push`",
    ),
    "job_incomplete": CodeRow(
        Kind.STOP,
        "the queue does not have all that was pushed: a push was broken off, or keys were removed or evicted",
        "`scrapy bulkqueue drop`, and push the list again; what the ledger proves is not fetched",
    ),
    "job_cancelled": CodeRow(
        Kind.STOP,
        "the job was cancelled with `scrapy bulkqueue cancel`; what there is of its files is kept",
        "`scrapy bulkqueue resume`, and start a worker",
    ),
    "lease_lost": CodeRow(
        Kind.FINAL,
        "a worker that was not heard of for `BULK_LEASE`; others go on with its entries, so it has no row",
        "nothing: others go on with its entries",
    ),
    "stopped": CodeRow(Kind.STOP, "the run was stopped (rows with status `interrupted`)", _AGAIN),
}

# RFC 9110 §15.5, §15.6; RFC 6585 §4; 520 to 524 are what a CDN says of a broken origin.
_ANSWERED = "the server answered NNN"
HTTP = {
    # It stays although smaller ranges were asked for (hosts/pieces.py): no cure is known.
    400: CodeRow(Kind.PERMANENT, _ANSWERED, ""),
    401: CodeRow(Kind.PERMANENT, _ANSWERED, _LINK),
    403: CodeRow(Kind.PERMANENT, _ANSWERED, _credentials_or_link),
    404: CodeRow(Kind.PERMANENT, _ANSWERED, _URL),
    405: CodeRow(Kind.PERMANENT, _ANSWERED, ""),
    410: CodeRow(Kind.PERMANENT, _ANSWERED, _URL),
    451: CodeRow(Kind.PERMANENT, _ANSWERED, ""),
    **{
        status: CodeRow(Kind.RETRY, _ANSWERED, f"{_AGAIN} later")
        for status in (408, 421, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
    },
}
# No cure is known; the message quotes what the server said. A 4xx would be the same if asked again at once.
_OTHER_BELOW_500 = CodeRow(Kind.FINAL, _ANSWERED, "")
_OTHER_FROM_500 = CodeRow(Kind.RETRY, _ANSWERED, "")
# A code that is not in the table.
_UNKNOWN = CodeRow(Kind.FINAL, "", "")


def look_up(code: str) -> CodeRow:
    """The row of a code, `http_404` and its like included."""
    if not code.startswith("http_"):
        return TABLE.get(code, _UNKNOWN)
    status = int(code.removeprefix("http_"))
    return HTTP.get(status, _OTHER_BELOW_500 if status < 500 else _OTHER_FROM_500)


def cure(code: str, *, host_works: bool = False) -> str:
    """What to do about an error of this code, in one short sentence; empty where nobody knows.

    host_works: the hosts in question have served other files.
    """
    told = look_up(code).cure
    return told if isinstance(told, str) else told(host_works)
