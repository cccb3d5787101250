"""Tokens that live shorter than a run: who gets them, how many sessions they cost, and what a refusal means."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bulkspider.pumps.threads import DISK_THREADS
from support.crawl import Bulk
from support.faults import cut_after, in_turn, redirect_to, status, trickle
from support.faulty import Exchange, FaultyOrigin, good, make_body
from support.keycloak import PASSWORD, USER, Keycloak
from support.ondisk import wait_for

BODY = make_body(200_000)


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULK_OAUTH2_USER", USER)
    monkeypatch.setenv("BULK_OAUTH2_PASSWORD", PASSWORD)


def oauth2(server: FaultyOrigin, *hosts: FaultyOrigin, **more: str) -> str:
    names = [f"127.0.0.1:{host.port}" for host in hosts]
    return json.dumps({"token_url": server.url("token"), "client_id": "public", "hosts": names, **more})


def redirect_each(target: FaultyOrigin) -> object:
    def behaviour(exchange: Exchange) -> None:
        redirect_to(target.url(exchange.path.lstrip("/")))(exchange)

    return behaviour


def test_a_run_of_many_lifetimes_with_one_session_and_two_hosts(bulk: Bulk) -> None:
    """The catalogue sends everybody on to the download host, which needs its token; a third host sees nothing."""
    keycloak = Keycloak(life=0.8)
    began = time.monotonic()

    # Each file breaks once on its way, and takes, with what is left, about as long as a token lives.
    slow = in_turn(cut_after(100_000), trickle(125_000))

    with (
        FaultyOrigin({"token": keycloak.token}) as server,
        FaultyOrigin(default=keycloak.guarded(slow), resource=BODY) as download,
        FaultyOrigin(default=keycloak.guarded(redirect_each(download))) as catalogue,  # type: ignore[arg-type]
        FaultyOrigin(default=good, resource=BODY) as third,
    ):
        names = [f"{n}.bin" for n in range(12)]
        bulk.write_list([*(f"{name} {catalogue.url(name)}" for name in names), f"third {third.url('third')}"])
        ended = bulk.run(
            settings={
                "BULK_OAUTH2": oauth2(server, catalogue),
                "BULK_TRUSTED_HOSTS": f"127.0.0.1:{download.port}",
                "CONCURRENT_REQUESTS_PER_DOMAIN": "3",
            }
        )
        assert ended.status == 0, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert keycloak.most_sessions == 1
        assert [grant["grant_type"] for grant in keycloak.grants].count("password") == 1
        lifetimes = (time.monotonic() - began) / 0.8
        assert 3 <= len(keycloak.grants) <= 2 * lifetimes, "no token for each file"
        assert all("authorization" not in request.headers for request in third.requests)
        assert {row["status"] for row in ended.rows} == {"complete"}
        for secret in (USER, PASSWORD, "access-", "refresh-"):
            assert secret not in ended.log


def test_a_token_that_is_refused_is_renewed_at_once_and_in_mid_file(bulk: Bulk) -> None:
    keycloak = Keycloak(life=3600)

    def revoking(exchange: Exchange) -> None:
        keycloak.revoke(sessions=exchange.path == "/b.bin")
        cut_after(100_000)(exchange)

    with (
        FaultyOrigin({"token": keycloak.token}) as server,
        FaultyOrigin(default=keycloak.guarded(in_turn(revoking, good)), resource=BODY) as origin,
    ):
        bulk.write_list({name: origin.url(name) for name in ("a.bin", "b.bin")})
        ended = bulk.run(settings={"BULK_OAUTH2": oauth2(server, origin), "CONCURRENT_REQUESTS": "1"})
        assert ended.status == 0, ended.log
        assert ended.file("a.bin") == ended.file("b.bin") == BODY
        assert sum(row["bytes_received"] for row in ended.rows) == 2 * (len(BODY) + 100_000 // 8), (
            "what was there was kept"
        )
        assert [grant["grant_type"] for grant in keycloak.grants] == ["password", "refresh_token", "refresh_token", "password"]  # fmt: skip


def test_a_wrong_password_is_tried_once_and_a_token_server_that_is_down_is_waited_for(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keycloak = Keycloak(life=3600)
    keycloak.down = 2
    with (
        FaultyOrigin({"token": keycloak.token}) as server,
        FaultyOrigin(default=keycloak.guarded(), resource=BODY) as origin,
    ):
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(12)})
        ended = bulk.run(settings={"BULK_OAUTH2": oauth2(server, origin)})
        assert ended.status == 0, ended.log
        assert len(keycloak.grants) == 3
        monkeypatch.setenv("BULK_OAUTH2_PASSWORD", "wrong horse")
        bulk.output = bulk.folder / "again"
        refused = bulk.run(settings={"BULK_OAUTH2": oauth2(server, origin)})
        assert refused.status == 4, refused.log
        assert {row["error"]["code"] for row in refused.rows} == {"auth"}
        assert "127.0.0.1 refuses the user name or the password (invalid_grant: no *** for ada)" in refused.log
        assert len(keycloak.grants) == 4


def test_who_refuses_is_named_and_nobody_is_asked_again_and_again(bulk: Bulk) -> None:
    """A download host that is not trusted gets nothing; one that refuses all tokens costs one renewal."""
    keycloak = Keycloak(life=3600)
    with (
        FaultyOrigin({"token": keycloak.token}) as server,
        FaultyOrigin(default=status(401)) as download,
        FaultyOrigin(default=keycloak.guarded(redirect_each(download))) as catalogue,  # type: ignore[arg-type]
    ):
        bulk.write_list([f"{n}.bin {catalogue.url(f'{n}.bin')} header:X-Key=secret" for n in range(4)])
        settings = {"BULK_OAUTH2": oauth2(server, catalogue)}
        ended = bulk.run(settings=settings)
        assert ended.status == 4, ended.log
        message = ended.rows[0]["error"]["message"]
        assert f"127.0.0.1:{download.port}, to which a redirect led; it is not in BULK_TRUSTED_HOSTS" in message
        assert not any(name in request.headers for request in download.requests for name in ("authorization", "x-key"))
        assert len(keycloak.grants) == 1
        settings["BULK_TRUSTED_HOSTS"] = "127.0.0.1"
        bulk.output = bulk.folder / "trusted"
        ended = bulk.run(settings=settings)
        assert ended.status == 4, ended.log
        assert {request.headers.get("x-key") for request in download.requests[-4:]} == {"secret"}
        # The first run's, one for each host, one renewal, and one for the catalogue if that renewal ended its token.
        assert len(keycloak.grants) <= 5


def test_a_host_behind_a_redirect_that_cannot_be_reached_is_named(bulk: Bulk) -> None:
    with FaultyOrigin() as gone, FaultyOrigin() as origin:
        origin.add("a", redirect_to(gone.url("a")))
        gone.down()
        bulk.write_list({"a": origin.url("a")})
        ended = bulk.run(settings={"BULK_ORIGIN_PATIENCE": "0.3"})
        assert ended.status == 3, ended.log
        message = ended.rows[0]["error"]["message"]
        assert f"the connection was refused (127.0.0.1:{gone.port}, to which a redirect led)" in message


HOOKS = """
import asyncio
import os
CALLS = []

def note(origin, refused):
    with open("calls", "a") as file:
        file.write(f"{origin} {refused}\\n")

def plain(origin, refused):
    note(origin, refused)
    return {"X-Key": "renewed" if refused else "first"}

async def waits(origin, refused):
    note(origin, refused)
    await asyncio.sleep(0.05)
    return {"X-Key": "renewed"}

def nothing(origin, refused):
    note(origin, refused)

def broken(origin, refused):
    note(origin, refused)
    raise LookupError("no key for you")

def bad(origin, refused):
    note(origin, refused)
    return {"X-Key": "a\\nb"}

def text(origin, refused):
    note(origin, refused)
    return "Bearer a-secret-word"

def octets(origin, refused):
    note(origin, refused)
    return {"X-Key": b"a-secret-word"}

def soon(origin, refused):
    note(origin, refused)
    return {"X-Key": "renewed", "expires_in": "soon"}

def ours(origin, refused):
    note(origin, refused)
    return {"Content-Length": "5"}

def one(origin):
    pass

class Costly:
    def __init__(self, crawler):
        pass

    def __call__(self, origin, refused):
        pass

def hangs(origin, refused):
    note(origin, refused)
    if not origin.endswith(":" + os.environ["GOOD_PORT"]):
        import threading
        threading.Event().wait()
"""


@pytest.fixture
def hooks(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> Path:
    (bulk.folder / "hooks.py").write_text(HOOKS)
    monkeypatch.setenv("PYTHONPATH", str(bulk.folder))
    return bulk.folder / "calls"


@pytest.mark.parametrize(
    ("hook", "says", "calls"),
    [
        ("plain", None, ["False", "True"]),
        ("waits", None, ["False"]),
        ("nothing", "http_401", ["False"]),
        ("broken", "auth", None),
        # A mistake in the user's code is told at once, and not waited for as an outage.
        *((hook, "auth", ["False"]) for hook in ("bad", "text", "octets", "soon", "ours")),
    ],
)
def test_a_function_of_the_user(bulk: Bulk, hooks: Path, hook: str, says: str | None, calls: list[str] | None) -> None:
    def renewed(exchange: Exchange) -> None:
        (good if exchange.headers.get("x-key") == "renewed" else status(401))(exchange)

    with FaultyOrigin(default=renewed, resource=BODY) as origin:
        bulk.write_list({f"{n}.bin": origin.url(f"{n}.bin") for n in range(6)})
        settings: Mapping[str, str] = {"BULK_AUTH": f"hooks.{hook}", "BULK_ORIGIN_PATIENCE": "0.3"}
        ended = bulk.run(settings=settings)
        assert {row["error"] and row["error"]["code"] for row in ended.rows} in ({says}, {"origin_down"})
        asked = hooks.read_text().splitlines() if hooks.exists() else []
        if calls is not None:
            assert asked == [f"127.0.0.1:{origin.port} {refused}" for refused in calls]
        if hook == "broken":
            assert "no key for you" in ended.log
            assert "BULK_AUTH=hooks.broken" in ended.log, "the name of a function is no secret: the line can be used"
        assert "a-secret-word" not in ended.log


def test_functions_that_hang_hold_up_nobody_else(bulk: Bulk, hooks: Path) -> None:
    """More of them than there are threads for the disk, which every file needs."""
    with FaultyOrigin(default=good, resource=BODY) as origin, contextlib.ExitStack() as stack:
        hung = [stack.enter_context(FaultyOrigin(default=good)) for _ in range(DISK_THREADS + 1)]
        names = ["a.bin", "b.bin", "c.bin"]
        bulk.write_list(
            [*(f"{n} {origin.url(n)}" for n in names), *(f"h{n} {host.url('x')}" for n, host in enumerate(hung))]
        )
        process = bulk.start(
            *("-s", "CONCURRENT_REQUESTS=64", "-s", "CONCURRENT_REQUESTS_PER_DOMAIN=64"),
            settings={"BULK_AUTH": "hooks.hangs"},
            environment={"GOOD_PORT": str(origin.port)},
        )
        wait_for(lambda: all((bulk.output / name).exists() for name in names))
        process.send_signal(signal.SIGINT)
        ended = bulk.wait(process)
        assert ended.status == 130, ended.log
        assert all(ended.file(name) == BODY for name in names)
        assert all(host.requests == [] for host in hung)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"BULK_AUTH": "hooks.missing"}, "setting BULK_AUTH=hooks.missing"),
        ({"BULK_AUTH": "hooks.CALLS"}, "not a function"),
        ({"BULK_AUTH": "hooks.one"}, "it is called with two values, function(origin, refused)"),
        ({"BULK_AUTH": "hooks.Costly"}, "an object of this class cannot be made (TypeError: "),
        ({"BULK_OAUTH2": "{"}, "setting BULK_OAUTH2"),
        ({"BULK_OAUTH2": '{"token_url": "https://h/t"}'}, "hosts must say who gets the token"),
        ({"BULK_OAUTH2": '{"token_uri": "https://h/t"}'}, "did you mean token_url?"),
        ({"BULK_OAUTH2": '{"token_url": "h/t", "hosts": ["h"]}'}, "token_url must be the URL"),
        ({"BULK_OAUTH2": '{"token_url": "https://h/t", "hosts": ["h"], "grant": "implicit"}'}, "grant must be one of"),
        (
            {"BULK_OAUTH2": '{"token_url": "https://h/t", "hosts": ["h"], "grant": "client_credentials"}'},
            "set BULK_OAUTH2_CLIENT_SECRET in the environment, or write a line `machine h login",
        ),
        ({"BULK_AUTH": "bulkspider.auth.OAuth2"}, "setting BULK_OAUTH2: write"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_first_byte(
    bulk: Bulk, hooks: Path, settings: Mapping[str, str], says: str
) -> None:
    bulk.write_list({"a": "http://127.0.0.1:9/a"})
    ended = bulk.run(settings=settings)
    assert ended.status == 1, ended.log
    assert says in ended.log
