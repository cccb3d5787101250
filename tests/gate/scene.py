"""What one version meets in one crawl: for each row an origin, what lies on disk, and its line of the list."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from gate.rows import PATIENT, Row
from support import record
from support.faults import redirect_to
from support.faulty import FaultyOrigin
from support.record import Facts
from support.versions import Ended


class Scene:
    """What one version meets in a table: its origins, its folder, its list."""

    def __init__(self, folder: Path, rows: tuple[Row, ...], stack: contextlib.ExitStack) -> None:
        self.folder, self.rows = folder, rows
        self.output = folder / "out"
        self.output.mkdir(parents=True)
        self.list = folder / "list.txt"
        self.origins: dict[str, FaultyOrigin] = {}
        self.others: dict[str, FaultyOrigin] = {}
        self.urls: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        lines = []
        for row in rows:
            origin = self.origins[row.name] = stack.enter_context(FaultyOrigin(**row.server))
            if row.server.get("tls") is True:
                self.environment["SSL_CERT_FILE"] = str(origin.certificate_path)
            url = self.urls[row.name] = origin.url(row.name)
            origin.add(row.name, row.behaviour, row.serves)
            for path, behaviour in row.more.items():
                origin.add(path, behaviour, row.serves)
            if row.elsewhere is not None:
                other = self.others[row.name] = stack.enter_context(FaultyOrigin())
                other.add(row.name, row.elsewhere, row.serves)
                origin.add(row.name, redirect_to(other.url(row.name)))
            if row.before is not None:
                row.before.put(self.output / row.name, url)
            if row.down:
                origin.down()
            lines.append(f"{row.name} {url} {row.fields.replace('ORIGIN/', origin.url(''))}")
        self.list.write_text("\n".join(["name url", *lines]) + "\n", encoding="utf-8")

    def settings(self, more: Mapping[str, str]) -> list[str]:
        """As words of a command line."""
        return [word for name, value in {**PATIENT, **more}.items() for word in ("-s", f"{name}={value}")]

    def command(self, settings: Mapping[str, str]) -> list[str]:
        command = ["scrapy", "crawl", "bulk", "-a", f"list={self.list}", "-a", f"output={self.output}"]
        command += ["-O", f"{self.folder / 'report.jsonl'}:jsonl"]
        return command + self.settings(settings)

    def facts(self, row: Row, ended: Ended) -> Facts:
        """All that is compared of a row."""
        url = self.urls[row.name]
        facts = record.of_requests(self.origins[row.name].requests)
        if row.elsewhere is not None:
            elsewhere = record.of_requests(self.others[row.name].requests)
            facts |= {f"elsewhere, {fact}": value for fact, value in elsewhere.items()}
        for told in ended.rows:
            if told["name"] == row.name:
                facts |= record.of_row(told)
        return facts | record.of_files(self.output, row.name, url) | record.of_ledger(self.output, row.name, url)
