"""Which lines of a list are refused, which entries it has in every form, and how the run ends."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from pathlib import Path

import pytest

from gate.differences import passes
from gate.rows import PATIENT
from support import record
from support.faulty import FaultyOrigin, good, make_body
from support.record import Facts
from support.versions import PRESENT, Ended, Version

pytestmark = pytest.mark.timeout(600)

BODY = make_body(20_000)

# URL stands for one of the origin.
LINES = r"""
good.bin URL
../up.bin URL
/absolute.bin URL
C:\drive.bin URL
~home.bin URL
-dash.bin URL
dot. URL
nul.txt URL
state.part.json URL
%2e%2e%2fencoded.bin URL
a/../b.bin URL
no-url
ftp.bin ftp://127.0.0.1/x
port.bin http://127.0.0.1:99999/x
unknown-key.bin URL colour=red
bad-size.bin URL size=many
bad-hash.bin URL sha256=abc
two-sizes.bin URL size=1 size=2
a name with blanks.bin URL
comma.bin,URL,size=20000
# a comment

fragment.bin URL#part
twice.bin URL
twice.bin URL
folder/inside.bin URL
naïve-ü.bin URL
"""
COLLISIONS = r"""
same.bin URL?1
same.bin URL?2
Case.bin URL?3
case.bin URL?4
folder URL?5
folder/inside URL?6
"""


def jsonl(url: str) -> bytes:
    rows = [{"name": f"{number}.bin", "url": url, "size": len(BODY)} for number in range(3)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def plain(text: str, url: str) -> bytes:
    return ("name url" + text.replace("URL", url)).encode()


@pytest.mark.parametrize(
    "name", ["bad-lines-stop", "bad-lines-skip", "collisions", "csv", "crlf-and-bom", "json", "empty", "missing"]
)
def test_lists(name: str, frozen: Version, tmp_path: Path) -> None:
    with FaultyOrigin(default=good, resource=BODY) as origin, contextlib.ExitStack() as stack:
        url = origin.url("x")
        data, file = plain(LINES, url), "list.txt"
        if name == "collisions":
            data = plain(COLLISIONS, url)
        elif name == "csv":
            data, file = f'url,size,file\n{url},20000,"a, b.bin"\n{url},,c.bin\n'.encode(), "list.csv"
        elif name == "crlf-and-bom":
            data = b"\xef\xbb\xbfname\turl\r\n" + f"a b.bin\t{url}\r\nc.bin\t{url}\r\n".encode()
        elif name == "json":
            data, file = gzip.compress(jsonl(url)), "list.jsonl.gz"
        elif name == "empty":
            data = b"name url\n"
        running = {}
        for version in (frozen, PRESENT):
            folder = tmp_path / version.name
            folder.mkdir()
            if name != "missing":
                (folder / file).write_bytes(data)
            command = ["scrapy", "crawl", "bulk", "-a", f"list={file}", "-O", "report.jsonl:jsonl"]
            command += [word for key, value in PATIENT.items() for word in ("-s", f"{key}={value}")]
            command += ["-a", "bad_lines=skip"] if name == "bad-lines-skip" else []
            version.check(folder)
            started = version.start(command, cwd=folder, report=folder / "report.jsonl")
            running[version] = stack.enter_context(started)
        ended = {version: process.wait(300) for version, process in running.items()}
    theirs, ours = (facts_of(ended[version], tmp_path / version.name) for version in (frozen, PRESENT))
    passes(f"list-{name}", record.differences("list", theirs, ours), ended[PRESENT])


def facts_of(ended: Ended, folder: Path) -> Facts:
    """The exit status, the lines that are named as bad, the rows by their line, the files."""
    facts = {"exit status": str(ended.status)}
    # `FILE:LINE: what`, as the command shows bad lines.
    facts["bad lines"] = " ".join(sorted(set(re.findall(r"list\.\w+(?:\.gz)?:(\d+): ", ended.log)), key=int))
    for row in ended.rows:
        facts |= {f"line {row['line']} {fact}": value for fact, value in record.of_row(row).items()}
        facts[f"line {row['line']} name"] = row["name"]
    files = sorted(path for path in folder.glob("output/**/*") if path.is_file() and ".bulkspider" not in path.parts)
    facts["files"] = ", ".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files)
    return facts
