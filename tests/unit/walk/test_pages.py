"""What is read of index pages and of listings of buckets, and which links are below a start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.errors import UsageError
from bulkspider.walk.bucket import listing_below, read_listing, whole_question
from bulkspider.walk.links import read_links
from bulkspider.walk.start import Start, parse_plan
from support.indexpages import FORMS
from support.memory import held_by_python

START = Start.parse("https://example.org/data/2024/")


def links(page: str, url: str = "https://example.org/data/2024/") -> list[str]:
    return [link for some in read_links(page.encode(), "utf-8", url) for link in some]


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1).filter(
    lambda name: name.strip() not in ("", ".", "..")
)


@given(st.sampled_from(sorted(FORMS)), st.lists(NAMES, unique=True), st.lists(NAMES, unique=True))
def test_every_name_of_a_page_is_found_as_it_is_and_nothing_else(
    form: str, folders: list[str], files: list[str]
) -> None:
    page = FORMS[form]("/data/2024/", folders, files)
    below = [name for link in links(page) if (name := START.name_of(link))]
    assert below == [*(f"{folder}/" for folder in folders), *files]


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("a.nc", "a.nc"),
        ("./a.nc", "a.nc"),
        (" a.nc\n", "a.nc"),
        ("sub/a.nc", "sub/a.nc"),
        ("sub/../a.nc", "a.nc"),
        ("/data/2024/a.nc", "a.nc"),
        ("//example.org/data/2024/a.nc", "a.nc"),
        ("https://EXAMPLE.org:443/data/2024/a.nc", "a.nc"),
        ("/d%61ta/2024/a%20b.nc", "a b.nc"),
        ("a.nc#part", "a.nc"),
        ("%252e%252e%252fa.nc", "%2e%2e%2fa.nc"),  # the check of the list refuses it
        ("//example.org//data/2024/a.nc", None),
        ("..", None),
        ("../a.nc", None),
        ("../2024x/a.nc", None),
        ("%2e%2e/a.nc", None),
        ("%2e%2e%2fa.nc", None),
        ("sub/..%2f..%2f..%2fetc/passwd", None),
        ("/a.nc", None),
        ("https://example.org.evil.example/data/2024/a.nc", None),
        ("https://example.org:444/data/2024/a.nc", None),
        ("http://example.org/data/2024/a.nc", None),
        ("https://example.org@evil.example/data/2024/a.nc", None),
        ("?C=N;O=D", None),
        ("./?C=N;O=D", None),
        ("a.nc?download=1", None),
        ("#top", None),
        ("", None),
        ("javascript:alert(1)", None),
        ("mailto:root@example.org", None),
        ("ftp://example.org/data/2024/a.nc", None),
        ("https://[::1/a.nc", None),
        ("https://example.org:99999/a.nc", None),
    ],
)
def test_what_a_link_leads_to(href: str, name: str | None) -> None:
    found = [START.name_of(link) or None for link in links(f'<p><a href="{href}">x</a>')]
    assert found == [name] or (name is None and found == [])


def test_base_says_where_links_begin_but_not_what_is_below() -> None:
    page = '<head><base href="/data/2024/sub/"><base href="/nowhere/"></head><a href="a.nc">'
    assert links(page) == ["https://example.org/data/2024/sub/a.nc"]
    page = '<base href="https://evil.example/data/2024/"><a href="a.nc">'
    assert [START.name_of(link) for link in links(page)] == [None]


def test_a_page_in_another_encoding() -> None:
    page = '<a href="é.nc">é</a>'.encode("iso-8859-1")
    assert list(read_links(page, "iso-8859-1", "https://example.org/")) == [["https://example.org/%C3%A9.nc"]]
    assert list(read_links(b'<a href="a.nc">', "no-such-encoding", "https://example.org/")) == [
        ["https://example.org/a.nc"]
    ]


def test_a_page_with_very_many_links_needs_little_memory() -> None:
    page = FORMS["nginx"]("/data/2024/", [], [f"file-{number:07}.nc" for number in range(30_000)]).encode()
    with held_by_python() as held:
        count = sum(map(len, read_links(page, "utf-8", "https://example.org/data/2024/")))
    assert count == 30_001
    assert held.peak < 1_000_000


# --- Where a walk begins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("https://example.org/data/2024/", "2024"),
        ("https://example.org/data/a%20b", "a b"),
        ("https://example.org/", "example.org"),
        ("https://user:secret@example.org", "example.org"),
        ("https://example.org/%2e%2e/", "index"),
    ],
)
def test_the_folder_is_called_as_the_start(url: str, folder: str) -> None:
    assert Start.parse(url).folder_name == folder


@pytest.mark.parametrize(
    ("start", "moved", "allowed"),
    [
        ("http://example.org/data", "http://example.org/data/", True),
        ("http://example.org/data", "https://example.org/data/", True),
        ("https://example.org/data/", "http://example.org/data/", False),
        ("https://example.org/data/", "https://example.org/login", False),
        ("https://example.org/data/", "https://mirror.example.org/data/", False),
        ("https://example.org/data/", "https://example.org/", False),
    ],
)
def test_the_start_may_be_redirected_to_itself_only(start: str, moved: str, allowed: bool) -> None:
    if allowed:
        assert Start.parse(start).moved_to(moved).url == moved
    else:
        with pytest.raises(UsageError, match="give this URL instead"):
            Start.parse(start).moved_to(moved)


def test_the_user_name_of_the_start_is_that_of_all_below() -> None:
    start = Start.parse("https://me:s%40y@example.org/data")
    assert start.credentials == ("me", "s@y")
    moved = start.moved_to("https://example.org/data/")
    assert moved.with_credentials("https://example.org/data/a.nc") == "https://me:s%40y@example.org/data/a.nc"
    assert moved.name_of("https://example.org/data/a.nc") == "a.nc"


@pytest.mark.parametrize(
    ("accept", "reject", "name", "taken"),
    [
        (None, None, "a.nc", True),
        ("*.nc", None, "sub/a.nc", True),
        ("*.nc, *.h5", None, "a.h5", True),
        ("*.nc", None, "a.ncx", False),
        ("a.*", None, "sub/a.nc", True),
        ("a.*", None, "sub/ba.nc", False),
        ("sub/*.nc", None, "sub/a.nc", True),
        ("sub/*.nc", None, "x/sub/a.nc", False),
        (None, "*.tmp", "sub/a.tmp", False),
        ("*.nc", "a.*", "a.nc", False),
        (None, "old/", "old/", False),
        (None, "old/", "x/old/", False),
        (None, "x/old/", "x/old/", False),
        (None, "x/old/", "y/old/", True),
        (None, "*", "a.nc", False),
        ("*.nc", None, "sub/", True),  # files are chosen, folders entered
    ],
)
def test_accept_and_reject(accept: str | None, reject: str | None, name: str, taken: bool) -> None:
    globs = {key: value for key, value in (("accept", accept), ("reject", reject)) if value is not None}
    wanted = parse_plan("https://example.org/", globs).wanted
    assert (wanted.enters(name) if name.endswith("/") else wanted.takes(name)) is taken


# --- Buckets ----------------------------------------------------------------------------------------------------------


def listing(inner: str, name: str = "data") -> bytes:
    head = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}<Name>{name}</Name>{inner}</ListBucketResult>".encode()


OBJECT = (
    "<Contents><Key>a+b/ü &amp;?.nc</Key><Size>7</Size></Contents><Contents><Key>a+b/</Key><Size>0</Size></Contents>"
)


def test_objects_and_what_stands_for_folders() -> None:
    read = read_listing(listing(OBJECT), "https://s3.example.org/data/?list-type=2")
    assert list(read.urls()) == [
        ("a+b/ü &?.nc", "https://s3.example.org/data/a%2Bb/%C3%BC%20%26%3F.nc", 7),
    ]
    assert read.next_url is None
    assert read_listing(listing(OBJECT), "https://data.s3.example.org/").root == "https://data.s3.example.org/"


@pytest.mark.parametrize(
    ("inner", "url", "next_url"),
    [
        (
            "<IsTruncated>true</IsTruncated><NextContinuationToken>a/+=</NextContinuationToken>",
            "https://data.s3.example.org/?list-type=2&prefix=x%2F",
            "https://data.s3.example.org/?list-type=2&prefix=x%2F&continuation-token=a%2F%2B%3D",
        ),
        (
            "<IsTruncated>true</IsTruncated><NextMarker>k&amp;</NextMarker>",
            "https://data.s3.example.org/?marker=a",
            "https://data.s3.example.org/?marker=k%26",
        ),
        ("<IsTruncated>true</IsTruncated>", "https://d.example.org/", "https://d.example.org/?marker=a%2Bb%2F"),
    ],
)
def test_what_comes_next(inner: str, url: str, next_url: str) -> None:
    assert read_listing(listing(inner + OBJECT), url).next_url == next_url


@pytest.mark.parametrize(
    "body",
    [
        listing(OBJECT)[:-20],
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + listing(OBJECT),
        listing("<Contents><Key>a</Key></Contents>"),
        listing("<Contents><Size>1</Size></Contents>"),
        listing("<IsTruncated>true</IsTruncated>"),
        listing(f"<IsTruncated>true</IsTruncated><NextMarker>m</NextMarker>{OBJECT}"),
    ],
)
def test_a_listing_that_is_damaged_or_goes_in_a_circle(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|no key|go on"):
        read_listing(body, "https://data.s3.example.org/?marker=m")


def test_questions() -> None:
    assert whole_question("https://b.example.org/?list-type=2&prefix=x") is None
    assert whole_question("https://b.example.org/?prefix=x&delimiter=/&max-keys=5") == "https://b.example.org/?prefix=x"
    assert listing_below("https://b.example.org/x%20y/z/") == "https://b.example.org/?list-type=2&prefix=x%20y%2Fz%2F"
