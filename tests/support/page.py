"""The data of a report's page, read from its text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Scripts(HTMLParser):
    """What a browser takes for scripts: (attributes, text), and every URL that an element loads."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.loads: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.loads += [known[name] or "" for name in ("src", "href") if name in known]
        if tag == "script":
            self.scripts.append((known, ""))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))


def data_of(html: str) -> dict[str, Any]:
    parser = Scripts()
    parser.feed(html)
    (attributes, text), (program, _) = parser.scripts
    assert attributes == {"type": "application/json", "id": "data"}
    assert program == {}
    data = json.loads(text)
    assert isinstance(data, dict)
    return data
