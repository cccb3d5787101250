"""What Scrapy's users know works for our transfers as for any request: limits, redirects, auth, proxies, TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from scrapy.settings import default_settings

from support.crawl import QUICK, Bulk, Ended
from support.faults import in_turn, needs_header, redirect_loop, redirect_to, status
from support.faulty import Exchange, FaultyOrigin, correct, good, make_body
from support.holding import Gathering, stall_until
from support.proxy import Proxy, basic

BODY = make_body(20_000)
UNHURRIED = {"BULK_STALL_TIMEOUT": "60", "BULK_HEADERS_TIMEOUT": "60"}


def codes(ended: Ended) -> dict[str, str | None]:
    return {row["name"]: row["error"] and row["error"]["code"] for row in ended.rows}


def test_the_end_is_not_left_to_the_heartbeat_of_the_engine(bulk: Bulk) -> None:
    """Items of `start()` that are in a pipeline when it ends: Scrapy would look again after five seconds."""
    (bulk.folder / "heartless.py").write_text("""
from scrapy.core.engine import ExecutionEngine

ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = 3600.0


class Heartless:
    pass
""")
    with FaultyOrigin(default=good, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run(settings={"EXTENSIONS": '{"heartless.Heartless": 0}'}, timeout=60)
        assert ended.status == 0, ended.log


# --- How many at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"CONCURRENT_REQUESTS": "3", "CONCURRENT_REQUESTS_PER_DOMAIN": "5"}, 3),
        ({"CONCURRENT_REQUESTS": "9", "CONCURRENT_REQUESTS_PER_DOMAIN": "2"}, 2),
        ({"CONCURRENT_REQUESTS": "20", "CONCURRENT_REQUESTS_PER_DOMAIN": "12"}, 12),
        ({"CONCURRENT_REQUESTS": "9", "DOWNLOAD_SLOTS": '{"127.0.0.1": {"concurrency": 6}}'}, 6),
    ],
    ids=["total", "per-domain", "more-than-our-default", "slots"],
)
def test_scrapys_limits_of_concurrency_are_filled_and_never_passed(
    bulk: Bulk, settings: dict[str, str], most: int
) -> None:
    names = [f"{n}.bin" for n in range(3 * most)]
    gathering = Gathering(most)
    with FaultyOrigin(default=gathering, resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in names})
        ended = bulk.run(settings={**UNHURRIED, **settings}, timeout=60)
        assert ended.status == 0, ended.log
        assert gathering.most == most
        assert all(ended.file(name) == BODY for name in names)
        assert len(origin.requests) == len(names)


def test_a_list_sorted_by_host_keeps_two_hosts_busy_at_once(bulk: Bulk) -> None:
    at_once = {"one": 0, "two": 0}
    most = dict(at_once)
    lock = threading.Lock()

    def answer(host: str, exchange: Exchange) -> None:
        with lock:
            at_once[host] += 1
            most[host] = max(most[host], at_once[host])
        reply = correct(exchange)
        exchange.promise(reply)
        # Nobody is given a body before both hosts have two requests, although two hundred lines lie between them.
        stall_until(exchange, lambda: most["one"] >= 2 and most["two"] >= 2)
        with lock:
            at_once[host] -= 1
        exchange.send(reply.body)

    with (
        FaultyOrigin(default=partial(answer, "one"), resource=BODY) as one,
        FaultyOrigin(default=partial(answer, "two"), resource=BODY, host="127.0.0.2") as two,
    ):
        bulk.write_list(
            {f"{o.host}/{n}.bin": o.url(f"{n}.bin") for o, count in ((one, 200), (two, 4)) for n in range(count)}
        )
        settings = {"CONCURRENT_REQUESTS": "8", "CONCURRENT_REQUESTS_PER_DOMAIN": "2"}
        ended = bulk.run(settings={**UNHURRIED, **settings})
    assert ended.status == 0, ended.log
    assert most == {"one": 2, "two": 2}
    assert len(ended.rows) == 204


def test_two_ports_of_one_host_are_two_origins(bulk: Bulk) -> None:
    """A resolver that remembers the port of its first question sends the second one there."""
    bodies = [make_body(20_000, f"port {n}") for n in range(2)]
    with FaultyOrigin(default=good, resource=bodies[0]) as one, FaultyOrigin(default=good, resource=bodies[1]) as two:
        bulk.write_list({f"{n}/{m}.bin": o.url(f"{m}.bin") for m in range(3) for n, o in enumerate((one, two))})
        ended = bulk.run(settings={"CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        for n, body in enumerate(bodies):
            assert [ended.file(f"{n}/{m}.bin") == body for m in range(3)] == [True] * 3
        assert (len(one.requests), len(two.requests)) == (3, 3)


# --- Redirects --------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_another_host_gets_no_secret(bulk: Bulk) -> None:
    with (
        FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as far,
        FaultyOrigin(default=good, resource=BODY) as near,
    ):
        near.add("away.bin", redirect_to(far.url("a.bin")))
        near.add("home.bin", redirect_to("/b.bin", code=307))
        near.add("signed.bin", redirect_to([far.url(f"s.bin?Signature=s3cret-{n}") for n in range(3)]))
        secret = "header:X-Key=s3cret header:Cookie=session=s3cret"
        url = near.url("away.bin").replace("//", "//user:pa55word@")
        bulk.write_list(
            [
                f"away.bin {url} {secret}",
                f"home.bin {near.url('home.bin')} header:Authorization=Bearer-s3cret {secret}",
                f"signed.bin {near.url('signed.bin')}",
            ],
            header="ignored",
        )
        ended = bulk.run(settings={"LOG_LEVEL": "DEBUG"})
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in ("away.bin", "home.bin", "signed.bin"))

        (asked,) = near.requests_for("away.bin")
        assert asked.headers["authorization"] == basic("user:pa55word")
        (arrived,) = far.requests_for("a.bin")
        assert "s3cret" not in str(arrived.headers)
        assert not {"authorization", "cookie", "x-key", "referer"} & set(arrived.headers)
        for name in ("home.bin", "b.bin"):
            (request,) = near.requests_for(name)
            assert request.headers["authorization"] == "Bearer-s3cret"
            assert request.headers["x-key"] == "s3cret"
            assert "session=s3cret" in request.headers["cookie"]
        assert ended.row("away.bin")["final_url"] == far.url("a.bin")
        assert ended.row("home.bin")["final_url"] == near.url("b.bin")
        assert ended.row("signed.bin")["final_url"].endswith("Signature=***")
        assert_silent(bulk, ended, "s3cret", "pa55word")


def assert_silent(bulk: Bulk, ended: Ended, *secrets: str) -> None:
    """The secrets are nowhere but in our private copies of the list's lines."""
    for secret in secrets:
        assert secret not in ended.log
        for path in (path for path in bulk.folder.rglob("*") if path.is_file()):
            if path.parent.name == ".bulkspider" and path.name in ("list", "failed.list"):
                assert path.stat().st_mode & 0o077 == 0
            else:
                assert path == bulk.list or secret.encode() not in path.read_bytes(), path


def test_redirects_that_cannot_be_followed_are_failures(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=BODY) as plain, FaultyOrigin(tls=True) as tls:
        plain.add("loop.bin", redirect_loop())
        plain.add("endless.bin", redirect_loop(fresh=True))
        plain.add("nowhere.bin", status(302))
        tls.add("insecure.bin", redirect_to(plain.url("insecure.bin")))
        names = {name: plain.url(name) for name in ("loop.bin", "endless.bin", "nowhere.bin", "good.bin")}
        bulk.write_list({**names, "insecure.bin": tls.url("insecure.bin")})
        ended = bulk.run(settings={"DOWNLOAD_VERIFY_CERTIFICATES": "0", "REDIRECT_MAX_TIMES": "5"})
        assert ended.status == 3, ended.log
        assert codes(ended) == {
            "good.bin": None,
            "loop.bin": "redirect_loop",
            "endless.bin": "redirect_loop",
            "nowhere.bin": "redirect",
            "insecure.bin": "insecure_redirect",
        }
        assert plain.requests_for("insecure.bin") == []
        assert ended.file("good.bin") == BODY
        assert sorted(path.name for path in bulk.output.iterdir()) == [".bulkspider", "good.bin"]
        assert len(plain.requests) <= 30


# --- Identity ---------------------------------------------------------------------------------------------------------


def test_cookies_user_agent_and_default_headers_are_sent(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=BODY) as origin:
        origin.add("first.bin", redirect_to("/second.bin", headers={"Set-Cookie": "pass=yes; Path=/"}))
        origin.add("second.bin", needs_header("Cookie", "pass=yes"), BODY)
        bulk.write_list({"a.bin": origin.url("first.bin")})
        settings = {
            "USER_AGENT": "our-agent/1.0",
            "DEFAULT_REQUEST_HEADERS": json.dumps({"X-Everywhere": "yes", "Accept-Language": "tlh"}),
        }
        ended = bulk.run(settings=settings)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY
        for request in origin.requests:
            assert request.headers["user-agent"] == "our-agent/1.0"
            assert request.headers["x-everywhere"] == "yes"
            assert request.headers["accept-language"] == "tlh"
            assert request.headers["accept-encoding"] == "identity"
            assert "referer" not in request.headers


def test_userinfo_in_a_url_becomes_authorization_and_is_shown_nowhere(bulk: Bulk) -> None:
    with FaultyOrigin(resource=BODY) as origin:
        origin.add("a.bin", in_turn(status(503), needs_header("Authorization", basic("us er:pa55@word"))))
        origin.add("wrong.bin", status(401))
        origin.add("signed.bin", in_turn(status(500), good))
        sites = {"a.bin": "us%20er:pa55%40word", "wrong.bin": "us%20er:pa55%40word"}
        lines = [f"{name} {origin.url(name).replace('//', f'//{site}@')}" for name, site in sites.items()]
        lines.append(f"signed.bin {origin.url('signed.bin?X-Amz-Signature=deadbeef5&x=1')} header:X-Api-Key=k3y")
        bulk.write_list(lines, header="ignored")
        ended = bulk.run(settings={"LOG_LEVEL": "DEBUG", "STATS_DUMP": "1"})
        assert ended.status == 4, ended.log
        assert ended.file("a.bin") == BODY
        assert codes(ended) == {"a.bin": None, "wrong.bin": "http_401", "signed.bin": None}
        assert origin.requests_for("signed.bin")[-1].query == "X-Amz-Signature=deadbeef5&x=1"
        assert ended.row("a.bin")["url"] == origin.url("a.bin").replace("//", "//***@")
        assert_silent(bulk, ended, "pa55", basic("us er:pa55@word").split()[1], "deadbeef5", "k3y")


@pytest.mark.skipif(not hasattr(default_settings, "HTTPAUTH_USER"), reason="this Scrapy has no such settings")
def test_http_auth_settings_are_for_their_domain_only(bulk: Bulk) -> None:
    with (
        FaultyOrigin({"a.bin": needs_header("Authorization", basic("user:secret"))}, resource=BODY) as near,
        FaultyOrigin(default=good, resource=BODY, host="127.0.0.2") as far,
    ):
        bulk.write_list({"a.bin": near.url("a.bin"), "b.bin": far.url("b.bin")})
        auth = {"HTTPAUTH_USER": "user", "HTTPAUTH_PASS": "secret", "HTTPAUTH_DOMAIN": f"127.0.0.1:{near.port}"}
        ended = bulk.run(settings=auth)
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert "authorization" not in far.requests[0].headers


# --- Proxies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy("someone:hidden77") as serving:
        yield serving


def test_an_http_proxy_and_a_connect_tunnel_are_used_and_their_password_is_not_shown(
    bulk: Bulk, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv(name.upper(), raising=False)
    with FaultyOrigin(default=good, resource=BODY) as plain, FaultyOrigin(default=good, resource=BODY, tls=True) as tls:
        bulk.write_list(
            [
                f"plain.bin {plain.url('a.bin')}",
                f"tls.bin {tls.url('b.bin').replace('//', '//user:pa55word@')} header:X-Key=s3cret",
            ],
            header="ignored",
        )
        ended = bulk.run(settings={"DOWNLOAD_VERIFY_CERTIFICATES": "0", "LOG_LEVEL": "DEBUG"})
        assert ended.status == 0, ended.log
        assert ended.file("plain.bin") == ended.file("tls.bin") == BODY
        lines = sorted(head.split(b"\r\n")[0].decode() for head in proxy.heads)
        assert lines == [f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1", f"GET {plain.url('a.bin')} HTTP/1.1"]
        (tunnel,) = [head for head in proxy.heads if head.startswith(b"CONNECT")]
        assert b"s3cret" not in tunnel
        assert basic("user:pa55word").encode() not in tunnel
        (inside,) = tls.requests
        assert inside.headers["x-key"] == "s3cret"
        assert inside.headers["authorization"] == basic("user:pa55word")
        assert "proxy-authorization" not in inside.headers
        assert_silent(bulk, ended, "hidden77", basic("someone:hidden77").split()[1], "pa55word", "s3cret")


def test_a_proxy_that_opens_no_tunnel_is_a_failure_of_its_own(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy("someone:else") as proxy, FaultyOrigin(default=good, resource=BODY, tls=True) as tls:
        monkeypatch.setenv("https_proxy", proxy.url.replace("someone:else@", ""))
        for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        bulk.write_list({"a.bin": tls.url("a.bin")})
        ended = bulk.run(settings={"DOWNLOAD_VERIFY_CERTIFICATES": "0", "BULK_ORIGIN_PATIENCE": "1"})
        assert ended.status == 4, ended.log
        assert ended.row("a.bin")["status"] == "failed"
        assert "407" in ended.row("a.bin")["error"]["message"]
        assert tls.connections == 0


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_certificates_are_verified_unless_the_user_says_otherwise(bulk: Bulk) -> None:
    with FaultyOrigin(default=good, resource=BODY, tls=True) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin"), "b.bin": origin.url("b.bin")})
        ended = bulk.run()
        assert ended.status == 4, ended.log
        assert codes(ended) == {"a.bin": "tls_verify", "b.bin": "tls_verify"}
        assert all(row["error"]["permanent"] for row in ended.rows)
        assert origin.requests == []
        assert [path.name for path in bulk.output.iterdir()] == [".bulkspider"]

        ended = bulk.run(settings={"DOWNLOAD_VERIFY_CERTIFICATES": "0"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert {row["status"] for row in ended.rows} == {"complete"}


# --- Exit status, and life in other projects --------------------------------------------------------------------------


def test_one_404_among_good_files_loses_nothing_and_ends_with_4(bulk: Bulk) -> None:
    names = [f"{n}.bin" for n in range(5)]
    with FaultyOrigin(dict.fromkeys(names, good), resource=BODY) as origin:
        bulk.write_list({name: origin.url(name) for name in [*names[:3], "missing.bin", *names[3:]]})
        ended = bulk.run()
        assert ended.status == 4, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert len(ended.rows) == 6
        row = ended.row("missing.bin")
        assert (row["status"], row["attempts"]) == ("failed", 1)
        assert (row["error"]["code"], row["error"]["http_status"], row["error"]["permanent"]) == ("http_404", 404, True)
        assert "failed: missing.bin" in ended.log
        assert len(origin.requests_for("missing.bin")) == 1
        assert not (bulk.output / "missing.bin").exists()


def test_an_origin_that_answers_500_for_ever_is_asked_a_bounded_number_of_times(bulk: Bulk) -> None:
    with FaultyOrigin({"good.bin": good, "broken.bin": status(500)}, resource=BODY) as origin:
        bulk.write_list({"broken.bin": origin.url("broken.bin"), "good.bin": origin.url("good.bin")})
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "1"})
        assert ended.status == 3, ended.log
        assert codes(ended) == {"good.bin": None, "broken.bin": "http_500"}
        assert ended.row("broken.bin")["error"]["permanent"] is False
        assert ended.file("good.bin") == BODY
        assert 2 <= len(origin.requests_for("broken.bin")) <= 30
        assert "to go on, run the same again" in ended.log


class Anywhere(Bulk):
    """`scrapy bulk LIST -o DIR`, in a folder that belongs to no project."""

    def command(self, *arguments: str, settings: Mapping[str, str] | None = None) -> list[str]:
        command = ["env", "-u", "SCRAPY_SETTINGS_MODULE", sys.executable, "-m", "scrapy", "bulk", str(self.list)]
        for name, value in {**QUICK, **(settings or {})}.items():
            command += ["-s", f"{name}={value}"]
        return [*command, *(arguments or ["-o", str(self.output)])]


def test_scrapy_bulk_works_outside_of_any_project_with_an_honest_exit_status(tmp_path: Path) -> None:
    bulk = Anywhere(tmp_path)
    with FaultyOrigin({"a.bin": good, "b.bin": good, "busy.bin": status(500)}, resource=BODY) as origin:
        urls = {name: origin.url(name) for name in ("a.bin", "b.bin", "missing.bin", "busy.bin")}

        bulk.write_list({"a.bin": urls["a.bin"]})
        ended = bulk.run()
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == BODY

        bulk.write_list({"a.bin": urls["a.bin"], "b.bin": urls["b.bin"], "missing.bin": urls["missing.bin"]})
        ended = bulk.run()
        assert ended.status == 4, ended.log
        assert "failed: missing.bin" in ended.log
        assert ended.file("b.bin") == BODY

        bulk.write_list(urls)
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "1", "BULK_RETRY_TIMES": "1"})
        assert ended.status == 3, ended.log

        requests = len(origin.requests)
        for wrong in (["-o", str(bulk.output), "-a", "ouput=x"], ["-s", "BULK_DIGSET=off"], ["-a", "skip=7"]):
            ended = bulk.run(*wrong)
            assert ended.status == 1, ended.log
        bulk.write_list({"../a.bin": urls["a.bin"]})
        assert bulk.run().status == 1
        assert len(origin.requests) == requests

        bulk.write_list({"a.bin": urls["a.bin"]})
        ended = bulk.run("-j", "2")
        assert ended.status == 0, ended.log
        assert (tmp_path / "output" / "list" / "a.bin").read_bytes() == BODY


FOREIGN_PROJECT = {
    "scrapy.cfg": "[settings]\ndefault = shop.settings\n",
    "shop/__init__.py": "",
    "shop/settings.py": """
BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]
ITEM_PIPELINES = {"shop.pipelines.Seen": 300}
ROBOTSTXT_OBEY = False
CONCURRENT_REQUESTS_PER_DOMAIN = 4
ADDONS = {"bulkspider.Addon": 500}
""",
    "shop/pipelines.py": """
class Seen:
    def process_item(self, item):
        if isinstance(item, dict):
            item["seen"] = True
        return item
""",
    "shop/spiders/__init__.py": "",
    "shop/spiders/pages.py": """
import scrapy

class Pages(scrapy.Spider):
    name = "pages"
    url = None

    async def start(self):
        yield scrapy.Request(self.url, callback=self.parse)

    def parse(self, response):
        yield {"title": response.css("title::text").get(), "bytes": len(response.body), "ip": str(response.ip_address)}
""",
}


def test_a_foreign_project_keeps_working_and_can_crawl_bulk(bulk: Bulk) -> None:
    for name, text in FOREIGN_PROJECT.items():
        path = bulk.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "SCRAPY_SETTINGS_MODULE"}

    def scrapy(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "scrapy", *arguments],
            cwd=bulk.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    page = b"<html><head><title>a page</title></head></html>" + b" " * 100_000
    with FaultyOrigin({"big.bin": good}, resource=BODY) as origin:
        origin.add("page.html", status(200, body=page))
        status_of, log = scrapy("crawl", "pages", "-a", f"url={origin.url('page.html')}", "-O", "pages.jsonl")
        assert status_of == 0, log
        assert "Traceback" not in log, log
        row = json.loads((bulk.folder / "pages.jsonl").read_text())
        assert row == {"title": "a page", "bytes": len(page), "ip": "127.0.0.1", "seen": True}
        assert "gzip" in origin.requests[0].headers["accept-encoding"], "an ordinary request was changed"
        assert "bulk/" not in log

        listing = bulk.write_list({"big.bin": origin.url("big.bin"), "missing.bin": origin.url("missing.bin")})
        status_of, log = scrapy("crawl", "bulk", "-a", f"list={listing}", "-O", "bulk.jsonl")
        assert status_of == 0, "the status of a project's own crawl command is its own"
        assert "Traceback" not in log, log
        assert (bulk.folder / "output" / "list" / "big.bin").read_bytes() == BODY
        report = (bulk.folder / "bulk.jsonl").read_text().splitlines()
        rows = {row["name"]: row["status"] for row in map(json.loads, report)}
        assert rows == {"big.bin": "complete", "missing.bin": "failed"}

        requests = len(origin.requests)
        status_of, log = scrapy("crawl", "bulk", "-a", "list=missing.txt")
        assert "missing.txt: no such list" in log
        assert len(origin.requests) == requests


# --- What is left out -------------------------------------------------------------------------------------------------

DEPTH = "scrapy.spidermiddlewares.depth.DepthMiddleware"


@pytest.mark.parametrize("wanted", [False, True], ids=["idle", "wanted"])
def test_a_middleware_with_nothing_to_do_is_left_out_unless_somebody_names_it(bulk: Bulk, wanted: bool) -> None:
    settings = {"LOG_LEVEL": "INFO", "SPIDER_MIDDLEWARES": json.dumps({DEPTH: 900} if wanted else {})}
    with FaultyOrigin(default=good, resource=BODY) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run(settings=settings)
    assert ended.status == 0, ended.log
    assert (DEPTH in ended.log.partition("Enabled spider middlewares")[2].partition("]")[0]) is wanted, ended.log
