"""`--recurse` end to end: an index on the web becomes a list, and its files are fetched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bulkspider.errors import UsageError
from bulkspider.spiders.arguments.prepare import LockedOutput, UntouchedOutput, prepare
from support.crawl import QUICK
from support.faults import busy, in_turn, needs_header, redirect_to, silent, status, when
from support.faulty import FaultyOrigin, good, make_body
from support.indexpages import FORMS, bucket, nginx, serve, tree
from support.shell import Said, Shell

NAMES = (
    *("plain.nc", "with blank.nc", "hash#1.nc", "pct%41.nc", "ünïcode 日本.nc", "q?mark.nc", "amp&x;y.nc", "plus+x.nc"),
    *("quote'\"<b>.nc", "semi;colon:x.nc", "sub/one.nc", "sub/deep er/two.txt", "a&b/three.nc", "x" * 100 + ".nc"),
)
FILES = {name: make_body(500 + len(name), seed=name) for name in NAMES}
GOOD, NEW, IN = (make_body(300, seed=seed) for seed in ("good", "new", "in"))
FEW = {name: FILES[name] for name in ("plain.nc", "sub/one.nc", "sub/deep er/two.txt")}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def fetched(shell: Shell, folder: str = "output/data") -> dict[str, bytes]:
    return {path.removeprefix(f"{folder}/"): body for path, body in shell.files().items()}


def rows(shell: Shell, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shell.folder / name).read_text().splitlines()]


def walk(shell: Shell, origin: FaultyOrigin, *options: str, start: str = "data/") -> Said:
    return shell.bulk(origin.url(start), "--recurse", *options)


def test_the_index_pages_of_five_forms(shell: Shell) -> None:
    files = {f"{form}/{name}": make_body(len(name) + 50, seed=form) for form in FORMS for name in NAMES}
    behaviours = {"data/": serve(nginx("/data/", list(FORMS), []))}
    for form, write in FORMS.items():
        mine = {name: files[f"{form}/{name}"] for name in NAMES}
        behaviours |= tree(write, mine, f"data/{form}/")
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 0, said.log
        assert fetched(shell) == files
        # Nothing above the start was asked for, and every page once.
        asked = [request.path for request in origin.requests]
        assert all(path.startswith("/data/") for path in asked if path != "/robots.txt")
        assert len(asked) == len(set(asked)) == len(files) + 2 + 4 * len(FORMS)
        assert {request.headers["user-agent"].partition("/")[0] for request in origin.requests} == {"bulkspider"}


SLOW_END = """
import asyncio

from bulkspider.run.run import Run


class SlowEnd:
    @classmethod
    def from_crawler(cls, crawler):
        pipeline = cls()
        pipeline.crawler = crawler
        return pipeline

    def process_item(self, item):
        return item

    async def close_spider(self):
        # The run notices by itself, a little later, that the crawl is closing.
        while self.crawler.spider.name != "bulk" and not self.crawler.get_extension(Run).stopping:
            await asyncio.sleep(0.01)
"""


def test_a_walk_that_takes_long_to_close_was_not_stopped(shell: Shell) -> None:
    (shell.folder / "slowend.py").write_text(SLOW_END)
    with FaultyOrigin(tree(nginx, FEW, "data/")) as origin:
        said = walk(shell, origin, "-s", 'ITEM_PIPELINES={"slowend.SlowEnd": 1}')
        assert said.status == 0, said.log


@pytest.mark.parametrize(("version", "start"), [(2, ""), (1, "data/"), (1, "?prefix=2024/&delimiter=/"), (2, "2024/")])
def test_the_listings_of_buckets(shell: Shell, version: int, start: str) -> None:
    below = "2024" in start
    objects = {f"2024/{name}" if below else name: body for name, body in FILES.items()} | {"2024/sub/": b""}
    root = "data/" if start == "data/" else ""
    behaviours: dict[str, Any] = {root + key: (good, body) for key, body in objects.items() if body}
    behaviours[root] = bucket(objects | ({"2025/not-this.nc": b"1"} if below else {}), version=version)
    error = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"
    behaviours["2024/"] = status(404, body=error)
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin, "-o", "out", start=start)
        assert said.status == 0, said.log
        assert fetched(shell, "out") == FILES
    assert {"name": "plain.nc", "size": len(FILES["plain.nc"])}.items() <= json.loads(
        next(line for line in (shell.folder / "out/.bulkspider/walk.jsonl").read_text().splitlines() if "plain" in line)
    ).items()


def test_a_run_again_walks_again_and_fetches_what_is_new(shell: Shell) -> None:
    with FaultyOrigin(tree(nginx, FEW, "data/")) as origin:
        assert walk(shell, origin).status == 0
        before = len(origin.requests)
        for path, behaviour in tree(nginx, FEW | {"sub/new.nc": NEW}, "data/").items():
            origin.add(path, *behaviour) if isinstance(behaviour, tuple) else origin.add(path, behaviour)
        said = walk(shell, origin)
        assert said.status == 0
        assert fetched(shell) == FEW | {"sub/new.nc": NEW}
        asked = [request.path for request in origin.requests[before:]]
        assert [path for path in asked if not path.endswith("/")] == ["/robots.txt", "/data/sub/new.nc"]
        # What the last walk has found is what verify reads again; it asks nobody.
        before = len(origin.requests)
        (shell.folder / "output/data/plain.nc").unlink()
        said = walk(shell, origin, "--verify", "-O", "rows.jsonl")
        assert (said.status, len(origin.requests)) == (3, before)
        assert sorted(row["name"] for row in rows(shell)) == sorted([*FEW, "sub/new.nc"])


def test_hostile_links_lead_nowhere(shell: Shell) -> None:
    page = """<base href="./"><a href="../up.nc">x</a><a href="/elsewhere.nc">x</a><a href="//evil.example/data/a.nc">x
<a href="http://evil.example/data/b.nc">x</a><a href="?C=N;O=D">x</a><a href="#top">x</a><a href="javascript:x()">x</a>
<a href="%2e%2e/c.nc">x</a><a href="..%2f..%2fetc/passwd">x</a><a href="sub/../../d.nc">x</a><a href="e.nc?raw=1">x</a>
<a href="./">x</a><a href="">x</a><a>x</a><a href="good.nc">x</a><a href="good.nc">x</a><a href="sub/">x</a>
<a href="https://[bad">x</a><a href="ftp://127.0.0.1/data/f.nc">x</a>"""
    behaviours: dict[str, Any] = {"data/": serve(page), "data/good.nc": (good, GOOD)}
    behaviours["data/sub/"] = serve('<a href="../">x</a><a href="/data/">x</a><a href="../sub/">x</a><a href="in.nc">x')
    behaviours["data/sub/in.nc"] = (good, IN)
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 0, said.log
        assert fetched(shell) == {"good.nc": GOOD, "sub/in.nc": IN}
        expected = ["/data/", "/data/good.nc", "/data/sub/", "/data/sub/in.nc", "/robots.txt"]
        assert sorted(request.path for request in origin.requests) == expected


def test_names_that_cannot_be_used_are_bad_lines(shell: Shell) -> None:
    page = '<a href="good.nc">x</a><a href="%252e%252e%252fx">x</a><a href="caf%E9">x</a><a href="a%0ab">x</a><a href="~x">'
    with FaultyOrigin({"data/": serve(page), "data/good.nc": (good, GOOD)}) as origin:
        said = walk(shell, origin)
        assert said.status == 1
        for why in ("would leave the output folder", "not UTF-8", "control character", "begins with '~'"):
            assert why in said.log
        assert shell.files(hidden=True) == {}
        said = walk(shell, origin, "--bad-lines", "skip")
        assert said.status == 4
        assert fetched(shell) == {"good.nc": GOOD}


def test_robots_txt_is_obeyed_for_pages_and_files(shell: Shell) -> None:
    files = {"a.nc": GOOD, "secret/b.nc": NEW, "c.private": IN}
    behaviours = tree(nginx, files, "data/")
    rules = "User-agent: *\nDisallow: /data/secret/\nDisallow: /*.private\n"
    behaviours["robots.txt"] = serve(rules, "text/plain")
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 0, said.log
        assert "2 links were left out because robots.txt forbids them" in said.log
        assert fetched(shell) == {"a.nc": GOOD}
        assert not origin.requests_for("data/secret/")
        assert walk(shell, origin, "-s", "ROBOTSTXT_OBEY=False").status == 0
        assert fetched(shell) == files
        origin.add("robots.txt", serve("User-agent: *\nDisallow: /\n", "text/plain"))
        said = walk(shell, origin, "-o", "other")
        assert (said.status, "robots.txt forbids it" in said.log) == (1, True)
        assert not (shell.folder / "other").exists()


def test_the_depth_is_bounded_and_what_is_deeper_is_told(shell: Shell) -> None:
    endless = serve('<a href="again/">again</a>')
    with FaultyOrigin(
        {"data/": serve('<a href="again/">x</a><a href="a.nc">x'), "data/a.nc": (good, GOOD)}, default=endless
    ) as origin:
        said = walk(shell, origin, "--depth", "3")
        assert said.status == 0, said.log
        assert "1 folders deeper than 3 were not read; --depth N" in said.log
        assert len([request for request in origin.requests if request.path.endswith("/")]) == 4


def test_what_is_wanted(shell: Shell) -> None:
    with FaultyOrigin(tree(nginx, FILES, "data/")) as origin:
        said = walk(
            shell, origin, "--accept", "*.nc", "--accept", "*.txt", "--reject", "a&b/,p*", "--match", "*[!x].nc"
        )
        assert said.status == 0, said.log
        wanted = [name for name in FILES if name.endswith(".nc") and name[-4] != "x" and name[0] != "p"]
        wanted.remove("a&b/three.nc")
        assert set(fetched(shell)) == set(wanted)
        assert not origin.requests_for("data/a&b/")
        said = walk(shell, origin, "--accept", "*.none", "-o", "out")
        assert (said.status, "links to a file that is wanted" in said.log) == (1, True)
        assert not (shell.folder / "out").exists()


# --- Pages that fail --------------------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_read_stops_the_run_unless_bad_lines_are_skipped(shell: Shell) -> None:
    behaviours = tree(nginx, FEW, "data/") | {"data/sub/deep er/": status(403)}
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 1
        assert "1 page of the index could not be read, so nothing was begun" in said.log
        assert "/data/sub/deep%20er/: the server answered 403" in said.log
        assert shell.files(hidden=True) == {}
        assert not origin.requests_for("data/plain.nc")
        said = walk(shell, origin, "--bad-lines", "skip", "-O", "rows.jsonl")
        assert said.status == 4, said.log
        assert fetched(shell).keys() == {"plain.nc", "sub/one.nc", "rows.jsonl"}
        (failed,) = [row for row in rows(shell) if row["status"] == "failed"]
        assert failed["name"] == "sub/deep er/"
        assert (failed["error"]["code"], failed["error"]["http_status"]) == ("http_403", 403)


def test_a_page_that_fails_for_a_while_is_asked_for_again(shell: Shell) -> None:
    behaviours = tree(nginx, FEW, "data/")
    behaviours["data/"] = in_turn(
        busy(503, 0, None), busy(429, None, None), serve(nginx("/data/", ["sub"], ["plain.nc"]))
    )
    behaviours["data/sub/"] = in_turn(status(500), serve(nginx("/data/sub/", ["deep er"], ["one.nc"])))
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 0, said.log
        assert fetched(shell) == FEW
        assert len(origin.requests_for("data/")) == 3


def test_a_server_that_fails_for_ever_may_be_tried_another_time(shell: Shell) -> None:
    behaviours = tree(nginx, FEW, "data/") | {"data/sub/": status(503)}
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin)
        assert said.status == 3
        assert len(origin.requests_for("data/sub/")) == 1 + int(QUICK["BULK_RETRY_TIMES"])
        url = origin.url("data/")
    said = shell.bulk(url, "--recurse")
    assert (said.status, "the connection was refused" in said.log) == (3, True)
    assert "this should not happen" not in said.log
    assert shell.files(hidden=True) == {}


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        ("data/plain.nc", "the answer is no index page"),
        ("nowhere/", "the server answered 404"),
        ("page", "the URL of a folder ends in '/'"),
        ("moved/", "if that is the folder you mean, give this URL instead"),
        ("login/", "it leads elsewhere, to http"),
        ("broken/", "the listing of the bucket is damaged or cut off"),
    ],
)
def test_what_is_no_index(shell: Shell, start: str, sentence: str) -> None:
    behaviours: dict[str, Any] = tree(nginx, FEW, "data/")
    behaviours["page"] = serve('<a href="data/">')
    behaviours["moved/"] = redirect_to("/data/")
    behaviours["login/"] = serve('<a href="sub/">')
    behaviours["login/sub/"] = redirect_to("/page")
    behaviours["broken/"] = serve("<?xml version='1.0'?><ListBucketResult><Contents>", "application/xml")
    with FaultyOrigin(behaviours) as origin:
        said = walk(shell, origin, start=start)
        assert said.status in (1, 3)
        assert sentence in said.log
        assert shell.files(hidden=True) == {}


def test_where_a_redirect_leads_is_looked_at_before_anything_is_asked_for_there(shell: Shell) -> None:
    with FaultyOrigin(default=serve("")) as other, FaultyOrigin() as origin:
        origin.add("away/", redirect_to(other.url("away/")))
        origin.add("data/", serve('<a href="sub/">'))
        origin.add("data/sub/", redirect_to(other.url("data/sub/")))
        origin.add("round/", redirect_to("/round/"))
        said = walk(shell, origin, start="away/")
        assert (said.status, "if that is the folder you mean, give this URL instead" in said.log) == (1, True), said.log
        said = walk(shell, origin)
        assert "it leads elsewhere, to http" in said.log
        said = walk(shell, origin, "-s", "REDIRECT_MAX_TIMES=3", start="round/")
        assert "too many redirects (3)" in said.log
        assert len(origin.requests_for("round/")) == 4
        assert other.requests == [], "not even robots.txt"


def test_a_stop_during_the_walk_leaves_no_half_list(shell: Shell) -> None:
    with FaultyOrigin(tree(nginx, FEW, "data/")) as origin:
        assert walk(shell, origin).status == 0
        before = shell.files(hidden=True)
        origin.add("data/sub/", silent())
        process = shell.start(origin.url("data/"), "--recurse", "-s", "BULK_RETRY_TIMES=9")
        origin.wait_until(lambda origin: len(origin.requests_for("data/sub/")) == 2)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 130, log.decode()
        after = shell.files(hidden=True)
        # The lock says who had it last.
        assert {path: body for path, body in after.items() if not path.endswith("lock")} == {
            path: body for path, body in before.items() if not path.endswith("lock")
        }


# --- Beside other things ------------------------------------------------------------------------------------------------


def test_a_dry_run_walks_and_writes_nothing(shell: Shell) -> None:
    with FaultyOrigin(tree(nginx, FEW, "data/")) as origin:
        said = walk(shell, origin, "--dry-run")
        assert said.status == 0, said.log
        assert "3 entries: 3 to fetch" in said.out
        assert shell.files(hidden=True) == {}
        origin.add("data/sub/", status(404))
        said = walk(shell, origin, "--dry-run")
        assert (said.status, "the server answered 404" in said.log) == (1, True)
        said = walk(shell, origin, "--dry-run", "--bad-lines", "skip")
        assert (said.status, "the server answered 404" in said.out) == (4, True)


def test_user_and_password_of_the_start_go_with_pages_and_files_and_nowhere_else(shell: Shell) -> None:
    locked = {"authorization": "Basic bWU6c2VjcmV0"}
    behaviours = {
        path: when(lambda exchange: exchange.headers.get("authorization") == locked["authorization"], page, status(401))
        for path, page in (
            (path, one[0] if isinstance(one, tuple) else one) for path, one in tree(nginx, FEW, "data/").items()
        )
    }
    with FaultyOrigin(behaviours) as origin:
        for path, one in tree(nginx, FEW, "data/").items():
            if isinstance(one, tuple):
                origin.add(path, needs_header("authorization", locked["authorization"]), one[1])
        url = origin.url("data/").replace("://", "://me:secret@")
        said = shell.bulk(url, "--recurse", "-O", "rows.jsonl")
        assert said.status == 0, said.log
        files = fetched(shell)
        assert {name: files[name] for name in FEW} == FEW
        assert "secret" not in said.log + said.out + (shell.folder / "rows.jsonl").read_text()


def test_this_projects_crawl_walks_too(shell: Shell) -> None:
    with FaultyOrigin(tree(nginx, FEW, "data/")) as origin:
        command = [sys.executable, "-m", "scrapy", "crawl", "bulk", "-a", f"list={origin.url('data/')}"]
        done = subprocess.run(
            [*command, "-a", "recurse=1", "-a", "accept=*.nc", "-O", "rows.jsonl"],
            cwd=shell.folder,
            env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {row["name"] for row in rows(shell)} == {"plain.nc", "sub/one.nc"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"list": "files.txt", "recurse": "1"}, "files.txt: recurse walks the index below a URL"),
        ({"list": "https://example.org/", "recurse": "2"}, "argument recurse=2: 0 takes a list"),
        ({"list": "https://example.org/"}, "a list is a file; --recurse"),
        ({"list": "https://example.org/", "recurse": "1", "depth": "x"}, "argument depth=x"),
        ({"list": "https://example.org/", "recurse": "1", "shard": "1/2"}, "every shard would walk by itself"),
        ({"list": "https://example.org/", "recurse": "1", "base": "https://x/"}, "argument base: it is for lists"),
        ({"list": "https://exa mple.org/", "recurse": "1"}, "https://exa mple.org/:"),
        ({"list": "https://example.org/%ff/", "recurse": "1"}, "must be UTF-8"),
        ({"list": "https://example.org/", "recurse": "1", "verify": "1"}, "there is no list of an earlier walk yet"),
        ({"list": __file__, "accept": "*.nc"}, "argument accept: it is for a walk; say --recurse"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, str], sentence: str, tmp_path: Path) -> None:
    for begin in (LockedOutput, UntouchedOutput):
        if begin is UntouchedOutput and "verify" in arguments:
            continue
        with pytest.raises(UsageError, match=re.escape(sentence)):
            begin({**arguments, "output": str(tmp_path / "out")}, {})
    assert not (tmp_path / "out").exists()


def test_a_crawl_that_is_not_ours_cannot_walk() -> None:
    with pytest.raises(UsageError, match="only `scrapy bulk URL --recurse`"):
        prepare({"list": "https://example.org/", "recurse": "1"}, {})


def test_words_of_the_command_line_that_do_not_fit(shell: Shell) -> None:
    said = shell.bulk("https://example.org/a/", "https://example.org/b/", "--recurse")
    assert (said.status, "one walk at a time" in said.log) == (2, True)
    said = shell.bulk("https://example.org/a/")
    assert (said.status, "--recurse fetches the files that its index links to" in said.log) == (1, True)
