"""What is fuzzed: everything that reads bytes of others. `TARGETS`: name -> (function of bytes, samples).

A function returns, or raises one of the errors that its reader promises; everything else that comes out of it is a bug.
The tests draw mutations of the samples (`tests/unit/test_fuzz.py`); `guided.py` lets coverage find the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bulkspider.disk.files.statefile import better_state, load_state, restore
from bulkspider.disk.finished.line import LedgerLine
from bulkspider.entries.entry import EntryError, check_name, parse_header, parse_json, parse_line
from bulkspider.entries.sumsfile import parse_sums
from bulkspider.errors import ListError, UsageError
from bulkspider.hosts.limits import seconds_to_wait
from bulkspider.lists.formats.choose import FORMATS, Reading
from bulkspider.lists.opening import check_list
from bulkspider.options import parse_size
from bulkspider.protocol import plan
from bulkspider.protocol.digests import ALGORITHMS, from_headers, linked
from bulkspider.protocol.plan import Answer, Ask, ContentRange, Expected, PartState, Validators
from bulkspider.protocol.ranges import Ranges
from bulkspider.protocol.servertext import excerpt
from bulkspider.pumps.ratelimit import ControlFile

SHA = "ab" * 32
FOLDER = Path(tempfile.mkdtemp(prefix="bulkspider-fuzz."))


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def line(data: bytes) -> None:
    text = text_of(data)
    with contextlib.suppress(EntryError):
        columns = parse_header(text)
        assert columns is None or "url" in columns.names
    with contextlib.suppress(EntryError):
        entry = parse_line(text, 1)
        if entry is not None:
            check_name(entry.name)
            assert entry.url.startswith(("http://", "https://"))
            assert not os.path.isabs(entry.name)
            assert ".." not in entry.name.split("/")


def json_line(data: bytes) -> None:
    with contextlib.suppress(EntryError):
        check_name(parse_json(text_of(data), 1).name)


def sums(data: bytes) -> None:
    with contextlib.suppress(ListError):
        for algorithm, digest in parse_sums(text_of(data).splitlines(), None, "SUMS").values():
            assert len(bytes.fromhex(digest)) == ALGORITHMS[algorithm]


def a_list(form: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = FOLDER / f"list-{form}"
        path.write_bytes(data)
        reading = {} if form == "list" else {"format": form, "base": "https://base.example/"}
        if form == "items":
            reading = {"format": form, "url_field": "file_urls"}
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder, contextlib.suppress(ListError, UsageError):
            source = check_list(str(path), folder, bad_lines="skip", reading=Reading.parse(reading), root=str(FOLDER))
            try:
                while (entry := source.take()) is not None:
                    check_name(entry.name)
            finally:
                source.close()

    return read


def content_range(data: bytes) -> None:
    piece = ContentRange.parse(data.decode("latin-1"))
    if piece is not None and piece.first is not None:
        assert piece.end is not None
        assert 0 <= piece.first < piece.end <= (piece.total or plan.LENGTH_MAX_BYTES + 1)


def head(data: bytes) -> None:
    """The head of an answer, from the status line on, and what the plan says of it."""
    lines = [text.partition(b":") for text in data.split(b"\r\n")[1:]]
    fields = plan.join_headers((n.decode("latin-1"), v.decode("latin-1").strip()) for n, _, v in lines)
    for digests in (from_headers(fields).representation, from_headers(fields).content, linked(fields)[0]):
        assert all(len(bytes.fromhex(digest)) == ALGORITHMS[name] for name, digest in digests.items())
    for status in (200, 403, 429):
        seconds_to_wait(status, fields, 1.7e9)
    length = plan.length_of(fields.get("content-length", ""))
    for status in (200, 206, 416, 503):
        answer = Answer.parse(status, fields, length=length)
        state = PartState(have=Ranges([(0, 100)]), total=1000, validators=Validators(etag='"v1"'))
        for known, asked in ((PartState(), Ask()), (state, plan.ask(state, overlap=10))):
            plan.judge(known, asked, answer, Expected(name="a.bin", size=1000))


def server_text(data: bytes) -> None:
    said = excerpt(data, "text/html; charset=utf-8", lambda text: text)
    assert said is None or all(character.isprintable() for character in said)


def state(data: bytes) -> None:
    path = FOLDER / "state"
    path.write_bytes(data)
    saved = load_state(path)
    if saved is not None:
        read = PartState()
        durable = restore(read, saved, 1000)
        assert read.have.end <= 1000
        assert durable.end <= 1000
        better_state(saved, saved, 5)


def ledger(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = LedgerLine.from_json(data)
        assert all(isinstance(text, str) for text in (found.name, found.key, found.status))
        assert type(found.size) is type(found.mtime_ns) is int
        LedgerLine.from_json(found.to_json())


def control(data: bytes) -> None:
    path = FOLDER / "control.json"
    path.write_bytes(data)
    for limit in (ControlFile(path).read() or {}).values():
        assert limit is None or limit > 0


def size(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text_of(data)) >= 0


HEAD = (
    b'HTTP/1.1 206 Partial Content\r\nContent-Length: 900\r\nContent-Range: bytes 100-999/1000\r\nETag: "v1"\r\n'
    b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nRetry-After: 3\r\nContent-Type: text/html\r\n"
)
DIGESTS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nRepr-Digest: sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:\r\n"
    b'ETag: "md5:3a393d7377617f182829554763015b1d"\r\nx-goog-hash: crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==\r\n'
    b'x-amz-checksum-crc64nvme: rosUhgp5mIg=\r\nX-Linked-ETag: "' + SHA.encode() + b'"\r\nX-Linked-Size: 1000\r\n'
)
#: Damaged in a way that mutations of a few bytes seldom find.
BROKEN_DIGESTS = DIGESTS.replace(b"sha-256=:", b"sha-256=:@,").replace(b"n03x6A==", b"n03")
STATE = json.dumps(
    {
        "version": 1,
        "etag": '"v"',
        "total": 900,
        "written": [[0, 5], [8, 900]],
        "durable": [[0, 5]],
        "boot": "x",
        "inode": 5,
        "key": "k",
    }
).encode()
LEDGER = b'{"name": "a", "key": "k", "size": 5, "mtime_ns": 7, "digests": {"md5": "aa"}, "status": "verified", "flags": [], "time": 1.5}'
LINES = f"name url\na.bin https://h/x size=10 sha256={SHA}\n\nb c.bin,https://h/y,md5=1B2M2Y8AsgTpgAmY7PhCfg==\nhttps://h/z.bin\n".encode()
LISTS: dict[str, Sequence[bytes]] = {
    "list": [LINES, b'{"name": "a", "url": "https://h/x", "size": 5}\n', b"url,name\nhttps://h/x,a\n"],
    "items": [b'{"file_urls": ["https://h/a", "https://h/b"], "n": 1}\n{"file_urls": "https://h/c"}\n'],
    "aria2": [b"https://h/a\thttps://m/a\n  out=a.bin\n  checksum=sha-256=" + SHA.encode() + b"\n"],
    "urls": [b"https://h/a\nhttps://h/b\n"],
    "paths": [b"a/b.gz\nc/d.gz\n"],
    "sums": [f"{SHA}  a/b\n".encode(), f"SHA256 (a) = {SHA}\n".encode()],
    "ena": [b"run_accession\tfastq_ftp\tfastq_md5\tfastq_bytes\nSRR1\th/a_1.gz;h/a_2.gz\t" + b"ab" * 16 + b";" + b"cd" * 16 + b"\t5;6\n"],
    "bagit": [b"https://h/a 5 data/a\nhttps://h/b - data/b%20c\n"],
    "metalink": [b'<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a"><size>5</size><url priority="1">https://h/a</url></file></metalink>'],
    "esgf": [b"download_files=\"$(cat <<EOF--dataset.file.url.chksum_type.chksum\n'a.nc' 'http://h/a.nc' 'SHA256' '" + SHA.encode() + b"'\nEOF--dataset.file.url.chksum_type.chksum\n)\"\n"],
    "ia": [b'<files><file name="a.pdf" source="original"><size>5</size><crc32>00000000</crc32></file></files>'],
    "hf": [b'[{"type":"file","path":"a","size":5,"lfs":{"oid":"' + SHA.encode() + b'","size":5}}]'],
    "zenodo": [b'{"files":[{"key":"a","size":5,"checksum":"md5:' + b"ab" * 16 + b'","links":{"self":"https://h/a"}}]}'],
    "figshare": [b'{"\xed\xa0\x80files":[]}', b'{"files":[{"name":"a","size":5,"computed_md5":"' + b"ab" * 16 + b'","download_url":"https://h/a"}]}'],
    "dataverse": [b'{"data":{"latestVersion":{"files":[{"dataFile":{"id":5,"filename":"a","filesize":5,"md5":"' + b"ab" * 16 + b'"}}]}}}'],
    "csv": [b"name;url;size\na;https://h/a;5\n", b"name,url\n\"a b\",https://h/a\n"],
}  # fmt: skip
TARGETS: dict[str, tuple[Callable[[bytes], None], Sequence[bytes]]] = {
    "line": (line, LINES.splitlines()),
    "json-line": (json_line, [b'{"name": "a", "url": "https://h/x", "size": 5, "mirrors": [], "checksums": {"md5": null}}']),
    "checksum-file": (sums, [f"{SHA}  a\n{SHA[:32]} *b\n\\{SHA}  c\\nd\nMD5 (e) = {SHA[:32]}\n".encode()]),
    "content-range": (content_range, [b"bytes 5-9/10", b"bytes */10", b"bytes 0-0/*"]),
    "head": (head, [HEAD, DIGESTS, BROKEN_DIGESTS]),
    "server-text": (server_text, [b"<html><title>no</title><body>Go &amp; away</body></html>", b'{"error": "no"}']),
    "state": (state, [STATE]),
    "ledger": (ledger, [LEDGER, LEDGER.replace(b"5", b'"5"'), LEDGER.replace(b'"k"', b"[]")]),
    "control-file": (control, [b'{"rate_limit": "50M", "rate_limit_per_host": null}', b'{"rate_limit": 1e9}', b'{"rate_limit": 1e999}', b'{"rate_limit": -1}']),
    "size": (size, [b"64M", b"1.5G", b"4096", b"9" * 400, b"1" * 310 + b"T"]),
    **{f"list-{form}": (a_list(form), LISTS[form]) for form in ("list", *FORMATS)},
}  # fmt: skip
