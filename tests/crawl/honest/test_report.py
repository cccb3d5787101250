"""The page of `-a report=`: its data and its escaping are read as text, its table is driven in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.items import BulkItem
from bulkspider.reporting.page.data import MAX_ROWS, MAX_SAMPLES, Rows, Throughput, encode, row_of
from bulkspider.reporting.page.report import page
from support.crawl import Bulk
from support.faults import busy
from support.faulty import FaultyOrigin, good, make_body, not_found
from support.holding import Holds
from support.page import Scripts, data_of

EVIL = "evil</script><script>document.title='owned'</script><!--<b>&amp;\u2028.bin"
COLUMNS = ("line", "name", "status", "size", "received", "resumed", "attempts", "broken", "connections")


def rows_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row[1]: dict(zip(COLUMNS, row, strict=False)) | {"row": row} for row in data["rows"]}


# --- The data -----------------------------------------------------------------------------------------------------------


def test_a_run_writes_a_page_that_holds_all_of_it_and_no_secret(bulk: Bulk) -> None:
    body = make_body(200_000)
    path = bulk.folder / "run.html"
    with FaultyOrigin(default=not_found, resource=body) as origin:
        names = {f"{n}.bin": origin.url(f"{n}.bin") for n in range(3)}
        names["signed.bin"] = origin.url("s.bin?X-Amz-Signature=s3cret").replace("//", "//me:pa55word@")
        for name in (*names, "s.bin", "e.bin"):
            origin.add(name, good)
        names["gone.bin"] = origin.url("gone.bin")
        names[EVIL.replace("\u2028", "").replace("/", "_")] = origin.url("e.bin")
        lines = [f"{name} {url}" for name, url in names.items()]
        bulk.write_list([*lines, f"own.bin {origin.url('0.bin')}?2 header:X-Key=s3cret"], header="ignored")
        ended = bulk.run("-a", f"report={path}", "-s", "AWS_SECRET_ACCESS_KEY=s3cret")
        assert ended.status == 4, ended.log
        assert f"report: {path}" in ended.log

        html = path.read_text(encoding="utf-8")
        assert "s3cret" not in html
        assert "pa55word" not in html
        data = data_of(html)
        assert data["counts"] == {"verified": 0, "complete": 6, "unproven": 0, "failed": 1, "interrupted": 0, "left": 0}
        assert (data["entries"], data["received"], data["ended"]) == (7, 6 * 200_000, True)
        rows = rows_of(data)
        assert set(rows) == {row["name"] for row in ended.rows}
        assert next(iter(rows)) == "gone.bin", "failures first"
        assert rows["gone.bin"]["row"][-2:] == ["http_404", "the origin answered 404"]
        assert data["cures"] == {"http_404": "correct the URL in the list"}
        assert (rows["1.bin"]["size"], rows["1.bin"]["received"], rows["1.bin"]["attempts"]) == (200_000, 200_000, 1)
        settings = {name: (value, changed) for name, value, changed in data["settings"]}
        assert settings["BULK_RETRY_TIMES"] == ("3", True)
        assert settings["BULK_CHECKPOINT"] == (str(64 << 20), False)
        assert "AWS_SECRET_ACCESS_KEY" not in settings
        assert "AWS_SECRET_ACCESS_KEY=***" in data["command"]
        assert {name for name, _ in data["versions"]} >= {"bulkspider", "Scrapy", "Twisted", "Python"}
        assert data["samples"][-1][1] == 6 * 200_000
        assert [name for name in os.listdir(bulk.folder) if name.endswith(".tmp")] == []

        # What an earlier run did is in the page of the next one.
        again = bulk.run("-a", f"report={path}")
        assert again.status == 4
        data = data_of(path.read_text(encoding="utf-8"))
        assert (data["already"], len(data["rows"])) == (6, 7)


def test_the_page_has_a_row_for_each_host_and_when_it_was_waited_for(bulk: Bulk) -> None:
    path, body = bulk.folder / "run.html", make_body(200_000)
    with FaultyOrigin(default=good, resource=body) as busy_one, FaultyOrigin(default=good, resource=body) as fine:
        busy_one.add("a.bin", busy(503, retry_after=2), body)
        fine.add("gone.bin", not_found)
        urls = {"a.bin": busy_one.url("a.bin"), "b.bin": fine.url("b.bin"), "c.bin": fine.url("c.bin")}
        bulk.write_list({**urls, "gone.bin": fine.url("gone.bin")})
        ended = bulk.run("-a", f"report={path}", settings={"LOGSTATS_INTERVAL": "0.5", "BULK_RETRY_AFTER_MAX": "60"})
        assert ended.status == 4, ended.log
        data = data_of(path.read_text(encoding="utf-8"))
        hosts = {row[0]: row for row in data["hosts"]}
        waiting, other = (hosts[origin.url("").split("/")[2]] for origin in (busy_one, fine))
        assert list(hosts) == [other[0], waiting[0]], "the one with the most bytes first"
        assert other[1:4] == [2, 1, 400_000]
        assert other[5:] == [{"http_404": 1}, 0, 0, [], None]
        assert (waiting[1:4], waiting[5], waiting[6]) == ([1, 0, 200_000], {"http_503": 1}, 1)
        ((since, until, why),) = waiting[8]
        assert why == "the origin answered 503"
        assert until - since >= 1.9
        assert waiting[7] == pytest.approx(until - since, abs=0.11)
        assert min(waiting[4], other[4]) > 0, "a speed of each"

        # The log names it as well, by the time of the day.
        told = rf"; waiting for {re.escape(waiting[0])} until \d\d:\d\d:\d\d \(1 file; the origin answered 503\)$"
        assert re.search(told, ended.log, re.MULTILINE), ended.log


def test_the_page_loads_nothing(bulk: Bulk) -> None:
    html = b"".join(page({"x": 1}, [])).decode()
    parser = Scripts()
    parser.feed(html)
    assert [url for url in parser.loads if not url.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in html
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", html)


@given(st.text())
def test_no_text_gets_out_of_the_data(text: str) -> None:
    html = b"".join(page({"list": text}, [encode([text, 1]), encode([text, 2])])).decode()
    data = data_of(html)
    seen = text.encode("utf-8", "replace").decode()
    assert data["list"] == seen
    assert data["rows"] == [[seen, 1], [seen, 2]]


def test_a_stopped_run_writes_its_page_too(bulk: Bulk) -> None:
    path = bulk.folder / "run.html"
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), make_body(400_000)), "b.bin": good}) as origin:
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        process = bulk.start("-a", f"report={path}", settings={"BULK_STALL_TIMEOUT": "60", "CONCURRENT_REQUESTS": "1"})
        held.wait()
        process.send_signal(signal.SIGINT)
        assert bulk.wait(process).status == 130
        data = data_of(path.read_text(encoding="utf-8"))
        assert (data["counts"]["interrupted"], data["counts"]["left"], data["goOn"]) == (1, 1, True)
        assert data["command"].endswith(f"report={path}")


def test_the_page_of_a_run_that_goes_on(bulk: Bulk) -> None:
    path = bulk.folder / "run.html"
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), make_body(400_000)), "gone.bin": not_found}) as origin:
        bulk.write_list({name: origin.url(name) for name in ("gone.bin", "a.bin")})
        often = "import bulkspider.reporting.page.report as r; r.WRITE_INTERVAL_SECONDS = 0.05; from scrapy.cmdline import execute; execute()"
        python, _, _, *arguments = bulk.command("-a", f"report={path}", settings={"BULK_STALL_TIMEOUT": "60"})
        process = subprocess.Popen(
            [python, "-c", often, *arguments],
            cwd=bulk.folder,
            env={**os.environ, "SCRAPY_SETTINGS_MODULE": "bulkspider.settings"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        held.wait()
        while not path.exists() or not data_of(path.read_text(encoding="utf-8"))["counts"]["failed"]:
            assert process.poll() is None
            time.sleep(0.01)
        data = data_of(path.read_text(encoding="utf-8"))
        assert (data["ended"], data["counts"]["failed"], data["counts"]["left"]) == (False, 1, 1)
        process.terminate()
        ended = bulk.wait(process)
        assert (ended.status, "Traceback" in ended.log) == (143, False), ended.log
        assert data_of(path.read_text(encoding="utf-8"))["ended"]


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("run.jsonl", "it is an HTML page, say report=NAME.html; rows are -O report.jsonl"),
        ("nowhere/run.html", "there is no folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_the_first_byte(bulk: Bulk, report: str, told: str) -> None:
    bulk.write_list({"a.bin": "http://127.0.0.1:9/a.bin"})
    ended = bulk.run("-a", f"report={report}")
    assert (ended.status, ended.rows) == (1, [])
    assert told in ended.log
    assert not bulk.output.exists()


def test_a_page_that_cannot_be_written_costs_no_file(bulk: Bulk) -> None:
    folder = bulk.folder / "pages"
    folder.mkdir()
    held = Holds(300_000, bulk.output / "a.bin.part")
    with FaultyOrigin({"a.bin": (held.behaviour(), make_body(400_000))}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        process = bulk.start("-a", f"report={folder / 'run.html'}", settings={"BULK_STALL_TIMEOUT": "60"})
        held.wait()
        shutil.rmtree(folder)
        process.terminate()
        ended = bulk.wait(process)
    assert ended.status == 143
    assert f"{folder / 'run.html'}: the report cannot be written (No such file or directory)" in ended.log
    assert "report: " not in ended.log
    assert "Traceback" not in ended.log


def test_rows_are_bounded_and_failures_are_never_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkspider.reporting.page.data.MAX_ROWS", 10)
    assert MAX_ROWS == 100_000
    rows = Rows()
    for n in range(25):
        rows.take(BulkItem(name=str(n), status="complete"), 1.0)
    for n in range(5):
        rows.take(BulkItem(name=f"f{n}", status="failed", error={"code": "stall", "message": "no byte"}), 2.0)
    assert [json.loads(row)[1] for row in rows.encoded()] == [*(f"f{n}" for n in range(5)), *map(str, range(10))]
    assert (rows.omitted, rows.codes) == (15, {"stall"})


def test_the_throughput_of_days_stays_small() -> None:
    throughput = Throughput()
    for second in range(200_000):
        throughput.add(float(second), second * 1000, 1)
    throughput.add(200_000.0, 200_000_000, 0, last=True)
    samples = throughput.samples
    assert MAX_SAMPLES / 3 < len(samples) <= MAX_SAMPLES + 1
    assert samples[0][0] == 0
    assert samples[-1] == (200_000.0, 200_000_000, 0)
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(samples[:-1])]
    assert max(gaps) <= 4 * min(gaps), "about evenly"


# --- In a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium. Where there is none the tests of the page are skipped; tests/check installs it for CI."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-component-update",
        ),
        *("--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1200,900"),
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_page_load_timeout(60)
    yield opened
    opened.quit()


def fabricated(count: int) -> bytes:
    """A page of `count` entries: every 10th failed; sizes grow with the number, speeds fall."""
    rows = []
    for n in range(count):
        item = BulkItem(
            line=n + 2, name=f"file-{n}.bin" if n != 1 else EVIL, url=f"https://example.org/{n}", status="complete"
        )
        item.size = item.bytes_received = 1000 * (n + 1)
        item.seconds, item.attempts = float(n + 1) ** 2 / 100, 1 + n % 3
        if n % 10 == 3:
            item.status, item.bytes_received = "failed", 0
            code = "http_404" if n % 20 == 3 else "stall"
            item.error = {"code": code, "message": f"<i>why</i> of {code}"}
        rows.append(encode(row_of(item, item.seconds + n)))
    failed = len(range(3, count, 10))
    head = {
        "list": f"/lists/{EVIL}.txt",
        "output": "/out",
        "command": f"scrapy bulk '{EVIL}'",
        "began": 1.7e9,
        "seconds": 100.0,
        "ended": True,
        "goOn": True,
        "entries": count,
        "already": 0,
        "received": 5 << 30,
        "counts": {
            "verified": 0,
            "complete": count - failed,
            "unproven": 0,
            "failed": failed,
            "interrupted": 0,
            "left": 0,
        },
        "resumed": 0,
        "atOnce": 8,
        "ignored": "",
        "omitted": 0,
        "cures": {"http_404": "correct the URL"},
        "settings": [["A", "<b>", True]],
        "versions": [["bulkspider", "1"]],
        "samples": [[0, 0, 0], [50, 1 << 30, 8], [100, 5 << 30, 8]],
        "hosts": [
            ["example.org:443", count - failed, failed, 5 << 30, 60 << 20, {"http_404": 3, "stall": 2}, 0, 0, [], None],
            [
                *("slow.example.net:443", 4, 0, 9 << 20, 1 << 20, {"http_503": 1200, "lost": 4}),
                *(2, 35.5, [[10, 40, "the origin answered 503"], [60, 65.5, f"<i>{EVIL}</i>"]], 90),
            ],
            ["gone.example.com:80", 0, 0, 0, None, {"refused": 7}, 1, 60, [[40, 100, "refused"]], 0],
        ],
        "hostsOmitted": 2,
    }
    return b"".join(page(head, rows))


def opened(browser: Any, path: Path) -> Any:
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    return browser


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )
    return found


def names(browser: Any) -> list[str]:
    return texts(browser, "#rows .name summary")


def click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def test_the_table_sorts_filters_and_turns_its_pages(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_bytes(fabricated(250))
    opened(browser, path)
    assert texts(browser, "#shown") == ["1–100 of 250 files"]
    # Failures first, in the order of the list.
    assert names(browser)[:3] == ["file-3.bin", "file-13.bin", "file-23.bin"]
    assert texts(browser, "#rows .status")[24:26] == ["failed", "complete"]
    assert texts(browser, "th[aria-sort]") == ["Outcome"]

    click(browser, "th[data-key=size] button")
    assert names(browser)[:2] == ["file-249.bin", "file-248.bin"], "the largest first"
    click(browser, "th[data-key=size] button")
    assert names(browser)[:3] == ["file-0.bin", EVIL, "file-2.bin"]
    assert browser.find_element("css selector", "th[data-key=size]").get_attribute("aria-sort") == "ascending"
    click(browser, "th[data-key=name] button")
    ordered = [name for name in names(browser) if name != EVIL]
    assert ordered == [f"file-{n}.bin" for n in range(101) if n != 1][: len(ordered)], "10 comes after 9"
    click(browser, "th[data-key=speed] button")
    assert names(browser)[-1] != "file-3.bin"
    click(browser, "#next")
    click(browser, "#next")
    assert texts(browser, "#shown") == ["201–250 of 250 files"]
    assert not browser.find_element("css selector", "#next").is_enabled()
    assert sorted(names(browser)[-25:]) == sorted(f"file-{n}.bin" for n in range(3, 250, 10)), "without a speed: last"

    click(browser, "#chips button[data-status=failed]")
    assert texts(browser, "#shown") == ["1–25 of 25 files"]
    search = browser.find_element("css selector", "#search")
    search.send_keys("STALL")
    assert texts(browser, "#shown") == ["1–12 of 12 files"]
    assert set(texts(browser, "#rows .why code")) == {"stall"}
    click(browser, "#chips button[data-status=failed]")
    search.clear()
    search.send_keys("no such thing")
    assert texts(browser, "#shown") == ["No file fits"]

    assert texts(browser, "#reasons .count") == ["13 × ", "12 × "]
    click(browser, "#reasons button")
    assert texts(browser, "#shown") == ["1–13 of 13 files"]


def test_the_table_of_hosts_shows_speeds_refusals_and_waits(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_bytes(fabricated(30))
    opened(browser, path)
    first, second, third = texts(browser, "#hosts tbody tr")
    assert first == "example.org:4432735.0 GiB60.0 MiB/s3 × http_404, 2 × stall"
    assert "1,200 × http_503, 4 × lost" in second
    assert "36 s in 2 waits" in second
    assert "waited for until " in second
    assert "being asked whether it works again" in third
    lanes = browser.execute_script(
        "return [...document.querySelectorAll('#hosts .lane')].map((lane) => [...lane.children].map((piece) =>"
        " [Math.round(100 * piece.offsetLeft / lane.clientWidth), Math.round(100 * piece.offsetWidth / lane.clientWidth)]))"
    )
    assert [[at for at, _ in lane] for lane in lanes] == [[10, 60], [40]]
    assert [wide for lane in lanes for _, wide in lane] == pytest.approx([30, 5.5, 60], abs=1)
    assert "2 more hosts are not on this page" in texts(browser, "#hosts-told")[0]


def test_nothing_of_the_list_becomes_markup_and_nothing_is_loaded(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_bytes(fabricated(30))
    opened(browser, path)
    assert browser.title.endswith("bulkspider report")
    assert EVIL in names(browser)
    assert (
        browser.execute_script(
            "return document.querySelectorAll('main b:not(summary b), main i:not([class]):not([style])').length"
        )
        == 0
    )
    assert texts(browser, "#command") == [f"scrapy bulk '{EVIL}'"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    loaded = {event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in loaded if not url.startswith(("file:", "data:", "chrome:"))} == set()


def test_a_phone_needs_no_sideways_scrolling_and_the_dark_is_dark(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_bytes(fabricated(120))
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        opened(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
        browser.execute_script(
            "const sort = document.querySelector('#sort'); sort.value = 'size'; sort.dispatchEvent(new Event('change'))"
        )
        assert names(browser)[0] == "file-119.bin"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_ten_thousand_entries_put_a_hundred_rows_on_the_page(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_bytes(fabricated(10_000))
    opened(browser, path)
    assert texts(browser, "#shown") == ["1–100 of 10,000 files"]
    assert len(names(browser)) == 100
    click(browser, "th[data-key=seconds] button")
    assert names(browser)[0] == "file-9999.bin"
    browser.find_element("css selector", "#search").send_keys("file-777.")
    assert names(browser) == ["file-777.bin"]
