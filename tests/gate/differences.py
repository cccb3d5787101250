"""The differences between the frozen version and the present one that are intended. One line each.

A test of the gate that fails prints lines such as `B23-page error code: html -> not_the_file`. If that is what you
want, add the line here with its reason, in a few words a user would understand:

    Intended("ends-3", "B23-page error code: html -> not_the_file", "a page where a file was expected has its own code"),

The first word is the test that printed it (in its brackets). `*` in a line stands for any text, also in the first word.
A line that no difference matches any more fails its test as well, so the table stays true.
"""

from __future__ import annotations

from typing import NamedTuple

from support.record import pattern_of
from support.versions import Ended


class Intended(NamedTuple):
    """where: the id of a test, which may have `*`. line: what it prints, which may have `*`. reason: why it is right."""

    where: str
    line: str
    reason: str


NOT_SAVED = "bytes of another version, or that a server without ranges sent again, are not counted as gone on from"
SAMPLES = "bytes that were sent again to be compared are not counted as gone on from"

PIECES = "a refusal may mean that the range was too long: pieces are asked for before it is believed"
CALM = "a 403 that does not say why costs its entry one more try in calm"
OUTAGE = "a host of which nothing succeeds is asked by one, until the patience with it is over"
ASKED_WHOLE = "a dry run finds out whether a host gives a large file in one go"
PAGES = "in the place of the stock pipeline a page is a file, as it is there"
HOLES = "zeros that lie in a hole (the copy of the folder has one) are asked for again and compared"
SHARED = "other small files share a request than before; an odd one among them is asked for once more, by itself"
REFUSED_ROW = "the row of refuted bytes tells what they were, as that of a list does"

WEAK = "md5 and sha1 verify, and are called what they are"

INTENDED: tuple[Intended, ...] = (
    Intended("ends-0", "B26-* flags: [] -> [*weak-hash*]", WEAK),
    Intended("ends-0", "B26-* ledger: *[]* -> *weak-hash*", WEAK),
    *(
        Intended(where, f"{rows} resumed_from: *00000 -> 0", NOT_SAVED)
        for where in ("ends-0", "items", "requests")
        for rows in ("A*", "B*")
    ),
    Intended("*", "* headers: *user-agent: Scrapy/* -> *user-agent: bulkspider/*", "the spider says who it is"),
    *(
        Intended(where, f"{name} request *: none -> GET * range=*", PIECES)
        for where in ("ends-4", "items", "requests")
        for name in ("C29-403-on-resume", "C32-target-refuses-then-list-url", "C29-expired-by-query")
    ),
    *(
        Intended("ends-4", f"{name} *: * -> *", CALM)
        for name in (
            "C29-403-mid-file",
            "C29-403-on-resume",
            "C32-target-refuses-then-list-url",
            "C29-expired-by-query",
        )
    ),
    *(
        Intended("ends-4", f"stats bulk/{line}", CALM)
        for line in ("attempts: * -> *", "failed/http_403: 4 -> 3", "files/*: * -> *")
    ),
    *(Intended(where, "* request *: none -> GET *", ASKED_WHOLE) for where in ("dry-run", "*-dry-run")),
    Intended("*-dry-run", "* asks for bytes that the frozen version does not: 0-0, 1-2097151", ASKED_WHOLE),
    Intended("items", "B23-page* *: * -> *", PAGES),
    Intended("items", "stats bulk/f*: * -> *", PAGES),
    Intended("items", "C32-target-refuses-then-list-url *: * -> *", CALM),
    *(Intended(where, "B26-* ledger: *[]* -> *weak-hash*", WEAK) for where in ("items", "requests")),
    Intended("requests", "B26-* flags: [] -> [*weak-hash*]", WEAK),
    Intended("items", "stats bulk/attempts: * -> *", CALM),
    Intended("items", "C29-expired-by-query request *: none -> GET *", CALM),
    Intended("patience", "C28-no-answer-always request *: none -> GET *", OUTAGE),
    Intended("patience", "D37-slow-headers-always request *: * -> *", OUTAGE),
    Intended("ends-3", "*-on-resume resumed_from: 200000 -> 0", NOT_SAVED),
    Intended("ends-3", "A13-total-disagrees-always resumed_from: 200000 -> 0", NOT_SAVED),
    Intended("ended-SIG*", "few-bytes resumed_from: 1000 -> 0", SAMPLES),
    Intended("connections-*", "file* resumed_from: * -> *", SAMPLES),
    Intended(
        "connections-*",
        "file* file .part.json.tmp: none -> *",
        "a state that a kill cut off is the next run's to clean",
    ),
    Intended("connections-*", "file* request *: none -> GET *", HOLES),
    Intended("connections-*", "file* asks for bytes that the frozen version does not: *", HOLES),
    Intended("set-aside", "changed-and-back resumed_from: 400000 -> 0", NOT_SAVED),
    Intended("*", "A-foreign-same resumed_from: 0 -> 2000000", "a file that was there is what the run went on from"),
    Intended("finished-run", "* resumed_from: 0 -> 2097152", "a file that was there is what the run went on from"),
    # Where the disk is full is chance: a file of which all bytes were there, or few enough to be compared, all of them.
    Intended(
        "full-dis*", "* resumed_from: * -> *", "a file that was there counts, bytes that are only compared do not"
    ),
    Intended("full-dis*", "* file .old: 0 bytes, * -> none", "an empty part is nobody's file"),
    Intended("ends-0", "E54-empty-part file .old: 0 bytes, * -> none", "an empty part of another tool holds nothing"),
    # Only where the kill meets a file between its name and its line in the ledger.
    Intended("queue-SIG*", "file* resumed_from: 0 -> *", "a file that was there is what the run went on from"),
    # Only where the kill meets a file between the opening of its part and its first byte.
    Intended("queue-SIG*", "file* file .old: 0 bytes, * -> none", "an empty part holds nothing that is worth keeping"),
    Intended("ends-3", "C65-to-f* attempts: 0 -> 2", "such a redirect is judged here, so its attempts are counted"),
    Intended("ends-3", "C65-to-f* broken: 0 -> 2", "such a redirect is judged here, so its attempts are counted"),
    *(
        Intended("requests", line, "a redirect that cannot be followed is told as what it is")
        for line in (
            "stats bulk/failed/redirect: 3 -> 6",
            "stats bulk/files/failed: 49 -> 52",
            "C65-to-f* status:  -> failed",
            "C65-to-f* attempts: 0 -> 1",
            "C65-to-f* error *: none -> *",
        )
    ),
    Intended("finished-dry-run", "hash-contradicts *", "a run hashes the file before it asks; the dry run says so"),
    Intended(
        "dry-run", "C30-mirror request 2: none -> GET /C30-there *", "a dry run goes on to a mirror, as a run does"
    ),
    # Which these are depends on how soon the files before them are done, so none of these lines must be there.
    *(
        Intended("small-files*", f"{name} {line}", SHARED)
        for name in (
            "not-found",
            "chunked",
            "no-length",
            "extra-bytes",
            "encoded",
            "page",
            "empty",
            "moved",
            "hash-wrong",
        )
        for line in ("request *: none -> GET *", "request *: GET * -> none", "asks for bytes that the frozen *")
    ),
    # In a request that others share first, then by itself; the length is proven after that.
    Intended("small-files*", "no-length request 2: GET /no-length range=bytes=5000- -> GET /no-length", SHARED),
    Intended(
        "finished-verify",
        '* flags: ["size-only"] -> ["size-only", "touched"]',
        "a changed file of which only the size was compared says so",
    ),
    *(Intended("requests", f"B2* {field}: null -> *", REFUSED_ROW) for field in ("size", "etag", "last_modified")),
)


def passes(where: str, lines: list[str], ended: Ended) -> None:
    """Raises AssertionError with the lines that nobody intended, and the entries of this test that match no line.

    where: the id of the test. ended: of the present version, whose log is shown.
    """
    ours = [entry for entry in INTENDED if pattern_of(entry.where).fullmatch(where)]
    found = [line for line in lines if not any(pattern_of(entry.line).fullmatch(line) for entry in ours)]
    found += [
        f"tests/gate/differences.py: no longer true, remove it: {entry.line}"
        for entry in ours
        if "*" not in entry.where and not any(pattern_of(entry.line).fullmatch(line) for line in lines)
    ]
    if found:
        shown = "\n".join(found)
        raise AssertionError(f"{where}: not as the frozen version does it, frozen -> present:\n{shown}\n\n{ended.log}")
