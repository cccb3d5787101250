"""What every error says: for each code of the README's table, a pattern that its sentence must match.

`conftest.Bulk` holds every failing row of every test to it, whoever provoked it; `test_errors.py` provokes those that no
other test does, and holds the table complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SAYS = {
    "list": r"\S+: .+",
    "usage": r".+",
    "folder_in_use": r"/.+: another .+ \(pid \d+ on \S+\) is writing there; wait for it, stop it, or choose another output folder",
    "bad_line": r"\S.*:\d+: .+; .+",
    "http_NNN": r"the origin answered \d{3}",
    "dns": r"the host name was not found \(.+\)",
    "connect": r"no connection \(.+\)",
    "refused": r"the connection was refused",
    "lost": r"the connection was (lost before the answer|(lost|closed) at byte \d+)|the body ended at byte \d+ of \d+",
    "headers_timeout": r"no answer within BULK_HEADERS_TIMEOUT",
    "stall": r"no byte for [\d.]+ s",
    "slow": r"slower than BULK_MIN_SPEED \(\d+ bytes/s\)",
    "origin_down": r"\S+:\d+ has not worked for \d+ s \(.+\)",
    "tls": r"TLS failed \(.+\)",
    "tls_verify": r"the certificate does not verify \(.+\)",
    "proxy": r"the proxy opened no tunnel \(.+\)|.+ proxies .+",
    "bad_answer": r"no valid answer \(.+\)",
    "bad_url": r"\S.+",
    "redirect": r"a redirect that cannot be followed \(3\d\d\)",
    "redirect_loop": r"too many redirects \(.+\)",
    "insecure_redirect": r"redirected from https to http; that is not followed",
    "robots": r"robots\.txt forbids it \(ROBOTSTXT_OBEY\)",
    "ignored": r"a middleware refused the request \(.+\)",
    "middleware": r"a middleware failed \(\w+: .+\)|another component answered the request in bulkspider's place",
    "dropped": r"a middleware or the scheduler dropped the request",
    "html": r"the origin sent a page \(.+\) where a file was expected \(login, error or landing page\?\)",
    "size_mismatch": r"the origin (offers|sent) \d+ bytes.*, the list says \d+",
    "digest_mismatch": r"(\w+ expected \w+ found \w+|\d+ bytes, expected \d+)(; moved to .+, run without verify)?",
    "unproven": r"the origin gave no means to prove the length \(BULK_REQUIRE_PROOF\)",
    "unstable": r".+; it was begun anew \d+ times already|the origin's answers make no sense together",
    "changed": r"the object (changes while it is compared|ended at byte \d+, before what was on disk)",
    "bad_range": r"206 with .+|206 reaches byte .+|asked for byte \d+, got (byte \d+|bytes up to \d+ only)|416 .+|416, .+",
    "no_progress": r"the answer ended at byte \d+ and brought nothing that was not there",
    "missing": r"the file is not there; run without verify",
    "two_ways": r"/.+: BulkFilesPipeline is fetching it already",
    "two_urls": r"/.+: it is being fetched from another URL",
    "no_space": r"no room for its \d+ bytes on the file system of /.+",
    "disk_full": r"/.+: (the file system is full|the disk quota is used up); make room and run the same command again",
    "read_only": r"/.+: the file system is read-only; mount it writable or choose another output",
    "io_error": r"/.+: the disk reported an error; check it before running again",
    "file_too_big": r"/.+: the file system cannot hold a file of this size; choose another output|the ledgers in /.+ are larger than 256 GiB",
    "no_permission": r"/.+: no permission; check owner and mode",
    "not_regular": r"/.+: .+ in the way; move it.*|not a regular file; move it",
    "too_many_files": r"/.+: too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS",
    "disk_error": r"/.+: .+",
    "part_in_use": r"/.+: another process is writing this part",
    "part_replaced": r"\S.+: removed (or replaced )?by somebody else( during the download)?",
    "file_changed": r"the file was (cut to \d+ bytes|written to) while it was hashed",
    "no_job": r"there is no job \S+ on \S+( \(jobs there: .+\))?; push its list first: .+|job \S+ on \S+ was dropped",
    "lease_lost": r"its lease has ended; another worker goes on with it",
    "stopped": r"the run was stopped",
}


def check_error(error: Mapping[str, Any]) -> None:
    """The error of a row is one sentence of the kind that its code promises."""
    code, message = error["code"], error["message"]
    pattern = SAYS["http_NNN" if code.startswith("http_") else code]
    assert re.fullmatch(pattern, message), f"{code}: {message}"
    assert "Traceback" not in message
    assert len(message) < 500
