"""Tables of hosts: which row counts, and what is refused in a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkspider.errors import UsageError
from bulkspider.hosts.identity import check_contact, user_agent
from bulkspider.hosts.profiles import Profiles


def test_the_table_of_the_package_says_why_and_where_from() -> None:
    profiles = Profiles.load()
    wikimedia = profiles.of("dumps.wikimedia.org")
    assert wikimedia is not None
    assert (wikimedia.connections, str(wikimedia)) == (2, "2 requests at once")
    crawl = profiles.of("data.commoncrawl.org")
    assert crawl is not None
    assert (crawl.interval_seconds, crawl.busy) == (1.0, {403})
    for host in ("zenodo.org", "zipper.dataspace.copernicus.eu", "HuggingFace.co"):
        profile = profiles.of(host)
        assert profile is not None
        assert profile.why
        assert profile.source.startswith("https://")
    assert profiles.of("notzenodo.org") is profiles.of("wikimedia.org") is profiles.of("localhost") is None


def test_a_users_rows_stand_over_the_tables(tmp_path: Path) -> None:
    own = tmp_path / "hosts.toml"
    own.write_text(
        '["org"]\nconnections = 7\n["data.example"]\nrequests_per_minute = 30\n["zenodo.org"]\nconnections = 0\n'
    )
    profiles = Profiles.load(str(own))
    found = {
        host: profiles.of(host) for host in ("zenodo.org", "dumps.wikimedia.org", "a.data.example", "huggingface.co")
    }
    assert [profile and str(profile) for profile in found.values()] == [
        "no limit",
        "7 requests at once",
        "30 requests a minute",
        "600 requests a minute",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.b = ", "no TOML"),
        ("x = 1", "host x: not understood"),
        ("[data.example]\nconnections = 2", "host data: not understood"),
        ('["a"]\nconnection = 2', "unknown key connection; did you mean connections?"),
        ('["a"]\nconnections = "2"', "connections must be a whole number"),
        ('["a"]\nconnections = true', "connections must be a whole number"),
        ('["a"]\nrequests_per_minute = -1', "requests_per_minute must be a number"),
        ('["a"]\nbusy = [200]', "busy must be a list of statuses"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, says: str) -> None:
    own = tmp_path / "hosts.toml"
    own.write_text(text)
    with pytest.raises(UsageError, match=r"hosts\.toml") as refused:
        Profiles.load(str(own))
    assert says in str(refused.value)
    with pytest.raises(UsageError, match="No such file"):
        Profiles.load(str(tmp_path / "none.toml"))


def test_who_we_are() -> None:
    assert user_agent().startswith("bulkspider/")
    assert user_agent("me@example.org").endswith("me@example.org)")
    for good in ("me@example.org", "https://example.org/crawler"):
        assert check_contact(good) == good
    for bad in ("me", "@", "a@b (c)", "a@b\r\nX: y", "ä@b.c", ""):
        with pytest.raises(UsageError, match="argument contact"):
            check_contact(bad)
