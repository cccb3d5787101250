"""What a person can do about a failed entry, by its error code: one short sentence for the summary and the report."""

from __future__ import annotations

_AGAIN = "run the same again"
_MIDDLEWARE = "look at your middlewares"

_CURES = {
    "bad_line": "correct the line in the list",
    "dns": "correct the host name, or check the network",
    "connect": f"check network and firewall, then {_AGAIN}",
    "refused": f"check host and port, or {_AGAIN} later",
    "lost": f"{_AGAIN}; the bytes are kept",
    "headers_timeout": f"{_AGAIN}; raise BULK_HEADERS_TIMEOUT for slow servers",
    "stall": f"{_AGAIN}; raise BULK_STALL_TIMEOUT for slow servers",
    "slow": f"{_AGAIN}; lower BULK_MIN_SPEED for slow links",
    "origin_down": f"{_AGAIN} when the host works",
    "tls": "check the TLS settings",
    "tls_verify": "mend the certificate; if you accept it as it is: -s DOWNLOAD_VERIFY_CERTIFICATES=False",
    "proxy": "check the proxy settings",
    "bad_answer": f"{_AGAIN}, or ask the server's owner",
    "bad_url": "correct the URL in the list",
    "redirect": "correct the URL in the list",
    "redirect_loop": "correct the URL, or raise REDIRECT_MAX_TIMES",
    "insecure_redirect": "give the http URL in the list if you accept that",
    "robots": "ask the site's owner, or set ROBOTSTXT_OBEY=False",
    "ignored": _MIDDLEWARE,
    "middleware": _MIDDLEWARE,
    "dropped": _MIDDLEWARE,
    "html": "log in or renew the link; a name that ends in .html takes pages",
    "size_mismatch": "correct the size in the list, or ask the server's owner",
    "digest_mismatch": "correct the hash in the list, or ask the server's owner; what came is in .part.old or .bad",
    "unproven": "give a size or hash in the list, or set BULK_REQUIRE_PROOF=False",
    "unstable": f"{_AGAIN} when the file on the server is at rest",
    "changed": _AGAIN,
    "bad_range": "give a mirror in the list",
    "no_progress": "give a mirror in the list",
    "missing": "run the same without verify=1",
    "two_urls": "give one of them another name",
    "two_ways": "fetch it in one of the two ways",
    "no_space": f"make room, then {_AGAIN}",
    "disk_full": f"make room, then {_AGAIN}",
    "read_only": "mount the file system writable",
    "io_error": "check the disk",
    "file_too_big": "use another file system",
    "no_permission": "mend owner and mode",
    "not_regular": "move away what lies there",
    "too_many_files": "raise `ulimit -n`, or lower CONCURRENT_REQUESTS",
    "disk_error": f"mend what it says, then {_AGAIN}",
    "part_in_use": "wait for the other process",
    "part_replaced": f"find out who touched the file, then {_AGAIN}",
    "file_changed": f"find out who touched the file, then {_AGAIN}",
    "stopped": _AGAIN,
    "lease_lost": _AGAIN,
    "no_job": "push its list with `scrapy bulkqueue push`",
}
_LINK = "give credentials, or a fresh link"
_BY_STATUS = {"401": _LINK, "403": _LINK, "407": "check the proxy settings", "429": f"{_AGAIN} later"}


def cure(code: str) -> str:
    """What to do about an error of this code; empty for a code that nobody knows."""
    if code.startswith("http_"):
        status = code.removeprefix("http_")
        return _BY_STATUS.get(status, f"{_AGAIN} later" if status.startswith("5") else "correct the URL in the list")
    return _CURES.get(code, "")
