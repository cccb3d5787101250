"""Lists of small files for the tests of batches, and crawls of them by one process or by two."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from support.crawl import Bulk, Ended
from support.faulty import Behaviour, FaultyOrigin, Resource, good, make_body

COUNT = 160
# Asked for when batches have begun, and in the middle of one.
ODD = 100
FEW = {"CONCURRENT_REQUESTS": "2", "CONCURRENT_REQUESTS_PER_DOMAIN": "2", "LOG_LEVEL": "DEBUG"}
NAMES = [f"{number}.bin" for number in range(COUNT)]


def body(name: str) -> bytes:
    return make_body(2_000, seed=name)


SCHEMES = ("http", "https")


def origin(odd: Behaviour = good, scheme: str = "http", **others: Any) -> FaultyOrigin:
    table = {name: (good, Resource(body(name))) for name in NAMES}
    table[NAMES[ODD]] = (odd, Resource(body(NAMES[ODD])))
    return FaultyOrigin({**table, **others}, tls=scheme == "https")


def trusting(server: FaultyOrigin) -> dict[str, str]:
    """The environment in which certificates are checked, and that of the origin is a good one."""
    return {"SSL_CERT_FILE": str(server.certificate_path)} if server.url("").startswith("https") else {}


def fetch(
    bulk: Bulk,
    server: FaultyOrigin,
    *arguments: str,
    settings: dict[str, str] | None = None,
    fields: Callable[[str], str] = lambda name: "",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    bulk.write_list({name: f"{server.url(name)} {fields(name)}".strip() for name in NAMES})
    wanted = {**FEW, "DOWNLOAD_VERIFY_CERTIFICATES": "True", **(settings or {})}
    return bulk.run(*arguments, settings=wanted, environment={**trusting(server), **(environment or {})})


def batches(log: str) -> list[int]:
    """How many files each request for several brought."""
    return [int(mates) + 1 for mates in re.findall(r"its request brings (\d+) more small files", log)]


def others_are_right(ended: Ended) -> None:
    for name in NAMES:
        if name != NAMES[ODD]:
            assert ended.row(name)["status"] == "complete"
            assert ended.file(name) == body(name)
