"""What every error says: for each code of the table in `bulkspider/codes.py`, a pattern that its sentence must match.

`crawl.Bulk` holds every failing row of every test to it, whoever provoked it; `test_errors.py` provokes those that no
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
    "no_route": r"no route to the host \(.+\)",
    "no_tls": r"the port speaks no TLS \(.+\)",
    "wants_tls": r"the port speaks TLS, and the URL begins with http:// \(400\)",
    "no_network": r"this machine has no way out: none of \d+ hosts can be reached \(.+\)",
    "not_yet": r"the origin accepted the request and has no file yet \(202\)(; the server said: .+)?",
    "bot_challenge": r"a challenge that only a browser can answer stands before the file \(\d{3}\)",
    "http_NNN": r"the origin answered \d{3}( \(.+, to which a redirect led.*\))?",
    "auth": r"no credentials for .+ \(.+\)",
    "dns": r"the host name was not found \(.+\)",
    "connect": r"no connection \(.+\)",
    "refused": r"the connection was refused",
    "lost": r"no socket \(.+\)|the connection was (lost before the answer|(lost|closed) at byte \d+)|the body ended at byte \d+ of \d+",
    "headers_timeout": r"no answer within BULK_HEADERS_TIMEOUT",
    "stall": r"no byte for [\d.]+ s",
    "slow": r"slower than BULK_MIN_SPEED \(\d+ bytes/s\)",
    "origin_down": r"\S+:\d+ has not worked for \d+ s \(.+\)",
    "tls": r"TLS failed \(.+\)",
    "tls_verify": r"the certificate does not verify \(.+\)",
    "proxy": r"the proxy opened no tunnel \(.+\)|.+ proxies .+|the proxy's address has no valid host or port",
    "proxy_auth": r"the proxy wants a user name and a password, or others than those it was given \(407\)",
    "bad_answer": r"no valid answer \(.+\)",
    "bad_url": r"\S.+",
    "redirect": r"a redirect that cannot be followed \(3\d\d(, to ['\"].+['\"]: .+)?\)",
    "redirect_loop": r"too many redirects \(.+\)",
    "insecure_redirect": r"redirected from https to http; that is not followed",
    "robots": r"robots\.txt forbids it \(ROBOTSTXT_OBEY\)",
    "ignored": r"a middleware refused the request \(.+\)",
    "middleware": r"a middleware failed \(\w+: .+\)|another component answered the request in bulkspider's place",
    "then_failed": r"the command .+ (failed with (signal|exit status) \d+(: .+)?|cannot be run: .+)",
    "dropped": r"a middleware or the scheduler dropped the request",
    "html": r"the origin sent a page \(.+\) where a file was expected \(login, error or landing page\?\)",
    "not_the_file": r"the origin sent a text \(an error, a page\?\) where the name says binary data",
    "size_mismatch": r"the origin (offers|sent) \d+ bytes.*, the (list|redirect) says \d+",
    "digest_mismatch": r"(\w+ expected \w+ found \w+ \(says the [\w ]+\)|\d+ bytes, expected \d+)(; moved to .+, run without verify)?",
    "unproven": r"the origin gave no means to prove the length \(BULK_REQUIRE_PROOF\)",
    "unstable": r".+; it was begun anew \d+ times already|the origin's answers contradict each other",
    "changed": r"the object (changes while it is compared|ended at byte \d+, before what was on disk)",
    "bad_range": r"206 with .+|206 reaches byte .+|asked for byte \d+, got (byte \d+|bytes up to \d+ only)|416 .+|416, .+",
    "no_progress": r"the answer ended at byte \d+ and brought no new byte",
    "missing": r"the file is not there; run without verify",
    "two_ways": r"/.+: BulkFilesPipeline is fetching it already",
    "two_urls": r"/.+: (it is being fetched by another request|another request of this crawl has its file there)"
    "; give this one another path",
    "no_space": r"no room for its [\d.]+ (?:B|[KMGT]iB) on the file system of /.+",
    "disk_full": r"/.+: (the file system is full|the disk quota is used up); make room and run the same command again",
    "read_only": r"/.+: the file system is read-only; mount it writable or choose another output",
    "io_error": r"/.+: the disk reported an error; check it before running again",
    "too_large": r"the origin offers \d+ bytes, (the whole file system has|BULK_MAX_SIZE allows) \d+"
    r"|the origin goes on after \d+ bytes \(BULK_MAX_SIZE\)|it has \d+ bytes, and BULK_STAGE_MAX is \d+",
    "private_redirect": r"redirected from .+ to .+, a private address \(.+\); nothing was sent",
    "file_too_big": r"/.+: the file system cannot hold a file of this size; choose another output|the ledgers in /.+ are larger than 256 GiB",
    "no_permission": r"/.+: no permission; check owner and mode",
    "not_regular": r"/.+: .+ in the way; move it.*|not a regular file; move it",
    "too_many_files": r"(/.+|this process): too many open files; raise `ulimit -n` or lower CONCURRENT_REQUESTS",
    "no_thread": r"no thread can be started \(.+\); raise `ulimit -u`, `ulimit -v` or the container's pids\.max, or run fewer transfers at once",
    "no_memory": r"there is not enough memory; raise `ulimit -v` or the container's limit, or run fewer transfers at once",
    "thread_died": r"a thread ended \(.+\); run the same again",
    "disk_error": r"(/.+|this process): .+",
    "part_in_use": r"/.+: another process is writing this part",
    "part_replaced": r"\S.+: removed (or replaced )?by somebody else( during the download)?",
    "part_changed": r"/.+: another program changed the part during the download",
    "folder_gone": r"/.+: the output folder was deleted during the run, .+; run the same command again",
    "file_changed": r"the file was (cut to \d+ bytes|written to) while it was hashed",
    "no_job": r"there is no job \S+ on \S+( \(jobs there: .+\))?; push its list first: .+|job \S+ on \S+ (was dropped|is lost, and nobody has pushed its list again)",
    "job_incomplete": r"job \S+ on \S+: (\d+ entr(y is|ies are) missing; .+|the push of .+ was broken off; push that list again)",
    "job_cancelled": r"job \S+ on \S+ was cancelled; .+",
    "lease_lost": r"its lease has ended; another worker goes on with it",
    "stopped": r"the run was stopped",
}


def check_error(error: Mapping[str, Any]) -> None:
    """The error of a row is one sentence of the kind that its code promises."""
    code, message = error["code"], error["message"]
    pattern = SAYS["http_NNN" if code.startswith("http_") else code]
    told, _, said = message.partition("; the server said: ")
    if not code.startswith("http_"):
        # A host that is not the list's own is named behind any sentence.
        told = re.sub(r" \(\S+:\d+, to which a redirect led\)", "", told)
    assert re.fullmatch(pattern, told) or re.fullmatch(pattern, message), f"{code}: {message}"
    assert len(said) <= 200
    assert said.isprintable()
    assert "Traceback" not in message
    assert len(message) < 500
