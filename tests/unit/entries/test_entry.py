"""A list line becomes an Entry, or says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import string
import unicodedata
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from w3lib.url import safe_url_string

from bulkspider.entries.entry import (
    Columns,
    Entry,
    EntryError,
    check_name,
    fold,
    normal_url,
    origin_of,
    parse_header,
    parse_json,
    parse_line,
    redact,
    slot_of,
    url_key,
    without_userinfo,
)
from bulkspider.entries.names import OWN_SUFFIXES
from bulkspider.items import BulkItem
from bulkspider.lists.checking.plain import folder_fits, key_of_plain, site_fits
from bulkspider.lists.checking.reader import Form

SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def line(text: str, columns: Columns | None = None) -> Entry:
    entry = parse_line(text, 1, columns)
    assert entry is not None
    return entry


# ------------------------------------------------------------------------------------------------------ the grammar


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("a.bin https://h/x", "a.bin", "https://h/x"),
        ("a.bin\thttps://h/x", "a.bin", "https://h/x"),
        ("a.bin,https://h/x", "a.bin", "https://h/x"),
        ("a.bin    https://h/x   ", "a.bin", "https://h/x"),
        ("  a.bin https://h/x\r\n", "a.bin", "https://h/x"),
        ("my big file.bin https://h/x", "my big file.bin", "https://h/x"),
        ("my big file.bin\thttps://h/x y", "my big file.bin", "https://h/x%20y"),
        ("dir/sub/a.bin https://h/x", "dir/sub/a.bin", "https://h/x"),
        ('"a, b.bin",https://h/x', "a, b.bin", "https://h/x"),
        ('a.bin,"https://h/x,y"', "a.bin", "https://h/x,y"),
        ('"a ""b"".bin",https://h/x', 'a "b".bin', "https://h/x"),
        ('"a b.bin" https://h/x', "a b.bin", "https://h/x"),
        ('a.bin "https://h/x y"', "a.bin", "https://h/x%20y"),
        ("a,b.bin https://h/x", "a,b.bin", "https://h/x"),
        ("a=b.bin https://h/x", "a=b.bin", "https://h/x"),
        ("ä.bin https://h/x", "ä.bin", "https://h/x"),
        ("a HTTP://Example.COM/x", "a", "http://example.com/x"),
        # bare URLs
        ("https://h/dir/x.bin", "x.bin", "https://h/dir/x.bin"),
        ("https://h/dir/x%20y.bin?token=1", "x y.bin", "https://h/dir/x%20y.bin?token=1"),
        ("https://h/ü.bin", "ü.bin", "https://h/%C3%BC.bin"),
        ("https://h/100%25.bin", "100%.bin", "https://h/100%25.bin"),
        ("https://h/a,b.bin", "a,b.bin", "https://h/a,b.bin"),
        ('"https://h/a,b.bin",size=1', "a,b.bin", "https://h/a,b.bin"),
        ("\thttps://h/x.bin", "x.bin", "https://h/x.bin"),
        (",https://h/x.bin", "x.bin", "https://h/x.bin"),
    ],
)
def test_the_name_is_all_before_the_url(text: str, name: str, url: str) -> None:
    entry = line(text)
    assert (entry.name, entry.url) == (name, url)


@pytest.mark.parametrize("text", ["", "   ", "\t", "\r\n", "# a comment https://h/x", "   # indented"])
def test_blank_lines_and_comments_pass(text: str) -> None:
    assert parse_line(text, 1) is None


@pytest.mark.parametrize("mark", [" ", "\t", ",", "   "])
def test_fields_follow_the_url_behind_the_same_separator(mark: str) -> None:
    cells = [
        "a.bin",
        "https://h/x",
        "size=10",
        f"SHA256={SHA256.upper()}",
        f"md5={MD5}",
        "crc32c=AAAAAA==",
        "mirror=https://m/x",
        "mirror=https://n/x",
        "segments=4",
        "header:X-Key=a=b",
        "",
    ]
    entry = line(mark.join(cells))
    assert entry == Entry(
        1,
        "a.bin",
        "https://h/x",
        size=10,
        digests=(("sha256", SHA256), ("md5", MD5), ("crc32c", "00000000")),
        mirrors=("https://m/x", "https://n/x"),
        segments=4,
        headers=(("X-Key", "a=b"),),
    )


def test_a_quoted_field_may_hold_the_separator() -> None:
    assert line('a https://h/x "header:Authorization=Bearer abc"').headers == (("Authorization", "Bearer abc"),)
    assert line('a,https://h/x,"header:Accept=a, b"').headers == (("Accept", "a, b"),)


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        ("md5=1B2M2Y8AsgTpgAmY7PhCfg==", MD5),
        (f"md5={MD5.upper()}", MD5),
        ("crc32c=yZRlqg==", "c99465aa"),
        ("crc32c=C99465AA", "c99465aa"),
        ("sha256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", SHA256),
    ],
)
def test_hashes_come_in_hex_or_base64(value: str, digits: str) -> None:
    assert line(f"a https://h/x {value}").digests[0][1] == digits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just a name", "there is no URL"),
        ("a.bin www.example.com/x", "'www.example.com/x' lacks https://; write it in front"),
        ("example.org/f.bin", "'example.org/f.bin' lacks https://; write it in front"),
        ("//example.org:8080/f.bin", "lacks https://"),
        ("a\t10.0.0.1/f.bin", "lacks https://"),
        ("docs/index about things", "there is no URL in this line; write NAME"),
        *(
            (f"{before}{url}", f"this is a command ({name}) of a script, not an entry; take the URLs out of it")
            for url in ("https://h/x", "'https://h/x'", '"https://h/x" \\')
            for before, name in (
                ("wget ", "wget"),
                ("wget -nc ", "wget"),
                ("  curl -L -o a.bin ", "curl"),
                ("sudo /usr/bin/wget -c ", "wget"),
                ("$ aria2c -x 4 ", "aria2c"),
                ("curl.exe ", "curl.exe"),
                ("Invoke-WebRequest ", "Invoke-WebRequest"),
            )
        ),
        ("wget -c \\", "this is a command (wget)"),
        ("wget", "this is a command (wget)"),
        ("a.bin;https://h/x", "separated by semicolons"),
        ("a.bin ; https://h/x", "separated by semicolons"),
        ('"a b";"https://h/x"', "separated by semicolons"),
        ('"a b"; "https://h/x"', "separated by semicolons"),
        ('"https://h/x";"a b"', "separated by semicolons"),
        ("https://h/x.bin;1048576", "separated by semicolons"),
        (f"https://h/x.bin;{SHA256};", "separated by semicolons"),
        ('https://h/x.bin;"a b"', "separated by semicolons"),
        ("a|https://h/x", "there is '|' before the URL; write a blank, TAB or comma in its place"),
        ("see <https://h/x>", "there is '<' before the URL"),
        ("https://h/my file.bin", "a blank inside the URL as %20"),
        ("https://h/my file.bin?x=1&y=2", "a blank inside the URL as %20"),
        ("a.bin https://h/my/other file.bin size=3", "a blank inside the URL as %20"),
        ("name url", "move it to line 1"),
        ("a ftp://h/x", "'ftp' is not supported"),
        ("a file:///etc/passwd", "'file' is not supported"),
        ("s3://bucket/x", "'s3' is not supported"),
        ("a http:///x", "no host"),
        ("a http://", "no host"),
        ("a http://h:99999/x", "no valid host or port"),
        ("a http://h:0/x", "no valid host or port"),
        ("a http://h:port/x", "no valid host or port"),
        ("a http://-._x..y/x", "no valid host or port"),
        ("a\thttp://h h/x", "no valid host or port"),
        ("a http://[::1/x", "no valid host or port"),
        (f"a http://{'h' * 64}.com/x", "no valid host or port"),
        ("a http://h/x\x01y", "control character"),
        ("http://h/", "gives the file no name"),
        ("http://h", "gives the file no name"),
        ("http://h/dir/?x=1", "gives the file no name"),
        ("http://h/%FF.bin", "not UTF-8"),
        ("http://h/..%2F..%2Fetc%2Fpasswd", "would leave the output folder"),
        ("http://h/%252e%252e%252f", "would leave the output folder"),
        ("a http://h/x foo", "is no key=value field"),
        ("http://h/x name.bin", "write the name before the URL"),
        ("a http://h/x sha265=abc", "did you mean sha256?"),
        ("a http://h/x sise=1", "did you mean size?"),
        ("a http://h/x size=", "not a number of bytes"),
        ("a http://h/x size=-1", "not a number of bytes"),
        ("a http://h/x size=10G", "not a number of bytes"),
        ("a http://h/x size=1 size=2", "given twice"),
        ("a http://h/x sha256=abc", "not a sha256"),
        (f"a http://h/x sha256={MD5}", "not a sha256"),
        (f"a http://h/x md5={MD5} md5={SHA256[:32]}", "given twice"),
        ("a http://h/x segments=0", "from 1 to"),
        ("a http://h/x mirror=ftp://h/x", "mirror: URL scheme 'ftp'"),
        ("a http://h/x header:Range=bytes=0-", "set by bulkspider itself"),
        ("a http://h/x header:HOST=x", "set by bulkspider itself"),
        ("a http://h/x header:accept-encoding=gzip", "set by bulkspider itself"),
        ("a http://h/x header:=x", "not a header name"),
        ("a http://h/x header:X\x00Y=x", "not a header name"),
        ("a\thttp://h/x\theader:X=a\x0bb", "control character"),
        ("a http://h/x header:X=1 header:x=2", "given twice"),
        ("a, http://h/x", "without a blank"),
        ('"a","b",http://h/x', "more than one quoted cell"),
        ('"a b http://h/x', "leaves no name, or a name with"),
        ('a,"http://h/x', "quotes do not match"),
        ('a http://h/x"y', "quote inside the URL"),
        ("a\thttp://h/x size=5", "a blank stands between the URL and a field"),
        ("a,http://h/x sha256=5", "a blank stands between the URL and a field"),
        ("a http://***@h/x", "replaced by ***"),
        ("a http://h/x?X-Amz-Signature=***&y=1", "replaced by ***"),
    ],
)
def test_a_bad_line_says_what_is_wrong_and_what_to_do(text: str, says: str) -> None:
    if says.startswith("leaves"):  # a lone quote is only a strange name
        assert line(text).name == '"a b'
        return
    with pytest.raises(EntryError) as caught:
        parse_line(text, 1)
    assert says in str(caught.value)
    assert caught.value.what
    assert caught.value.cure


def test_an_error_never_shows_a_secret() -> None:
    for text in (
        "a http://user:s3cret@h:port/x",
        "a http://user:s3cret/x@h/x",
        "a http://h/x header:Authorization=Bearer\x01s3cret",
        "a http://h/x http://user:s3cret@h/x",
        "a http://h/x http://user:s3cret@h/x?a=b",
        "a http://h/x header:Range=s3cret",
        "a http://h/x header:Authorization=Bearer s3cret",
        "a http://h/x header:Authorization=Bearer s3cret==",
        "a http://h/x header:Authorization=Custom size=1 s3cret=1",
        "a,http://h/x,header:Cookie=a,s3cret",
        "a\thttp://h/x?sig=s3cret size=5",
    ):
        with pytest.raises(EntryError) as caught:
            parse_line(text, 1)
        assert "s3cret" not in str(caught.value)


def test_an_error_tells_the_name_when_the_line_told_it() -> None:
    with pytest.raises(EntryError) as caught:
        parse_line("a.bin https://h/x size=x", 1)
    assert caught.value.name == "a.bin"


# ------------------------------------------------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("name url", Columns(" ", ("name", "url"))),
        ("url", Columns(" ", ("url",))),
        ("filename,url,size,sha256", Columns(",", ("name", "url", "size", "sha256"))),
        ("URL\tFile\r\n", Columns("\t", ("url", "name"))),
        ('"name","url"', Columns(",", ("name", "url"))),
        ("name, url, mirror, mirror", Columns(",", ("name", "url", "mirror", "mirror"))),
        ("name", None),
        ("name url sha265", None),
        ("name,link", None),
        ("a.bin https://h/x", None),
        ("", None),
        ("# name url", None),
        ("name;link", None),
    ],
)
def test_a_header_has_only_known_columns_and_url(text: str, columns: Columns | None) -> None:
    assert parse_header(text) == columns


def test_a_header_with_two_columns_of_one_kind_is_refused() -> None:
    with pytest.raises(EntryError, match="two columns for name"):
        parse_header("name,file,url")


@pytest.mark.parametrize("text", ["name;url", "URL;Size", '"name";"url";"sha256"\r\n', "name; url"])
def test_a_header_with_semicolons_is_refused(text: str) -> None:
    with pytest.raises(EntryError, match="separated by semicolons; separate them by commas or TABs"):
        parse_header(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wget\thttps://h/x", "wget"),
        ("curl,https://h/x", "curl"),
        ("bin/wget https://h/x", "bin/wget"),
        ("wget-1.24.tar.gz https://h/x", "wget-1.24.tar.gz"),
        ("curl manual.pdf https://h/x", "curl manual.pdf"),
        ("wget2.log https://h/x", "wget2.log"),
        ("curly https://h/x", "curly"),
        ("a.bin https://h/x;1234", "a.bin"),
        ("https://h/x.bin;v=2", "x.bin;v=2"),
        ("https://h/a;7/x.bin", "x.bin"),
        ("example.org/f.bin https://h/x", "example.org/f.bin"),
    ],
)
def test_what_only_looks_like_a_mistake_is_an_entry(text: str, name: str) -> None:
    assert line(text).name == name


def test_a_command_shows_nothing_of_its_secrets() -> None:
    with pytest.raises(EntryError) as caught:
        parse_line('curl -u alice:hunter2 -H "X: s3cret" https://h/x', 1)
    assert caught.value.name is None
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_below_a_header_columns_count() -> None:
    columns = parse_header("url,name,size,md5,mirror")
    entry = line(f'https://h/x,"a, b",10,{MD5},https://m/x', columns)
    assert entry == Entry(1, "a, b", "https://h/x", size=10, digests=(("md5", MD5),), mirrors=("https://m/x",))
    assert line("https://h/x.bin,,,,", columns) == Entry(1, "x.bin", "https://h/x.bin")
    assert line("https://h/x.bin", columns) == Entry(1, "x.bin", "https://h/x.bin")
    assert line("https://h/x.bin,a,1,,,segments=3", columns).segments == 3


def test_below_a_header_with_blanks_a_name_may_hold_blanks() -> None:
    columns = parse_header("name url size")
    assert line("my file.bin https://h/x 10", columns) == Entry(1, "my file.bin", "https://h/x", size=10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,,1", "url column is empty"),
        ("a,https://h/x,one", "not a number of bytes"),
        ("a,https://h/x,1,more", "is no key=value field"),
        ("a,b,1", "no scheme"),
    ],
)
def test_below_a_header_a_bad_line_is_told(text: str, says: str) -> None:
    with pytest.raises(EntryError) as caught:
        parse_line(text, 1, parse_header("name,url,size"))
    assert says in str(caught.value)
    assert caught.value.name == "a"


# -------------------------------------------------------------------------------------------------------- JSON Lines


def test_a_json_row_says_the_same_as_a_line() -> None:
    row = {
        "filename": "a.bin",
        "url": "https://h/x",
        "size": 10,
        "sha256": SHA256.upper(),
        "mirrors": ["https://m/x"],
        "mirror": "https://n/x",
        "headers": {"X-Key": "1"},
        "header:Accept": "*/*",
        "segments": "4",
        "md5": None,
    }
    assert parse_json(json.dumps(row), 7) == Entry(
        7,
        "a.bin",
        "https://h/x",
        size=10,
        digests=(("sha256", SHA256),),
        mirrors=("https://m/x", "https://n/x"),
        headers=(("X-Key", "1"), ("Accept", "*/*")),
        segments=4,
    )
    assert parse_json('{"url": "https://h/x.bin"}', 1).name == "x.bin"


def test_a_row_of_our_own_report_is_an_entry() -> None:
    item = BulkItem(name="a.bin", url="https://h/x", size=3, sha256=SHA256, checksums={"md5": MD5, "blake3": "?"})
    row = asdict(item)
    assert parse_json(json.dumps(row), 1) == Entry(
        1, "a.bin", "https://h/x", size=3, digests=(("sha256", SHA256), ("md5", MD5))
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"size": ' + "9" * 5000 + ', "url": "https://h/x"}', ""),
        ("{}", "no url"),
        ('{"url": 1}', "not a text"),
        ('{"url": "https://h/x", "nmae": "a"}', "did you mean name?"),
        ('{"url": "https://h/x", "size": 1.5}', "not a number"),
        ('{"url": "https://h/x", "size": true}', "not a number"),
        ('{"url": "https://h/x", "size": []}', "not a text"),
        ('{"url": "https://h/x", "headers": []}', "not an object"),
        ('{"url": "https://h/x", "mirrors": [1]}', "not a text"),
        ('{"url": "https://h/x", "name": "a", "file": "b"}', "given twice"),
        ('{"url": "https://h/x", "name": "\\ud800"}', "not valid Unicode"),
        ('{"url": "https://h/\\ud800", "name": "a"}', "lone surrogate"),
        ('{"url": "https://h/x", "name": "a\\u0000b"}', "control character"),
        ('{"url": "https://***@h/x"}', "replaced by ***"),
    ],
)
def test_a_bad_json_row_is_told(text: str, says: str) -> None:
    with pytest.raises(EntryError) as caught:
        parse_json(text, 1)
    assert says in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("../x", "leave"),
        ("a/../x", "leave"),
        ("a/..", "leave"),
        ("..", "leave"),
        ("/etc/passwd", "leave"),
        ("//host/share", "leave"),
        ("\\\\host\\share", "leave"),
        ("..\\x", "leave"),
        ("a\\..\\x", "leave"),
        ("C:\\x", "leave"),
        ("c:x", "leave"),
        ("%2e%2e%2fx", "leave"),
        ("%2E%2E/x", "leave"),
        ("a/%2e%2e/x", "leave"),
        ("%252e%252e%252fx", "leave"),
        ("%2fetc", "leave"),
        ("..%5cx", "leave"),
        ("C%3a/x", "leave"),
        ("a:b", "leave"),  # a drive
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("a\x85b", "control"),
        ("a\x1b[8mb", "control"),
        ("a\u202egpj.exe", r"'a\u202egpj.exe' holds a character that is not seen (U+202E RIGHT-TO-LEFT OVERRIDE)"),
        ("a\u2066b", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("a\u200db", "ZERO WIDTH JOINER"),
        ("a/\ufeffb", "U+FEFF"),
        ("a\u00adb", "SOFT HYPHEN"),
        ("a\u3164b", r"'a\u3164b' holds a character that is not seen"),
        ("a\U000e0041b", r"'a\U000e0041b' holds"),
        ("~root/x", "begins with '~'"),
        ("-rf", "begins with '-'"),
        ("a.", "ends with a dot or blank"),
        ("a ", "ends with a dot or blank"),
        (" a", "begins with a blank"),
        ("a/ b", "begins with a blank"),
        ("a./b", "ends with a dot or blank"),
        ("a\u00a0", "ends with a dot or blank"),
        ("./a", "ends with a dot or blank"),
        ("...", "ends with a dot or blank"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("nul", "device on Windows"),
        ("NUL.txt", "device on Windows"),
        ("a/Com1/b", "device on Windows"),
        ("com¹", "device on Windows"),
        ("aux .bin", "device on Windows"),
        (".bulkspider/ledger.jsonl", "keeps for itself"),
        ("a/.BulkSpider", "keeps for itself"),
        ("a.part", "ends in .part,"),
        ("A.PART", "ends in .part,"),
        ("a.part.json", "ends in .part.json,"),
        ("a.part.old", "ends in .part.old,"),
        ("a.part.old.json", "ends in .part.old.json,"),
        ("a.part.json.tmp", "ends in .part.json.tmp,"),
        ("x/.part", "ends in .part,"),
        ("a" * 239, "to 238 bytes"),
        ("ä" * 120, "to 238 bytes"),
        ("a" * 256 + "/b", "to 255 bytes"),
        ("/".join(["a" * 200] * 16), "to 3000 bytes"),
        ("a\ud800", "not valid Unicode"),
    ],
)
def test_an_unsafe_name_is_refused(name: str, says: str) -> None:
    with pytest.raises(EntryError) as caught:
        check_name(name)
    assert says in str(caught.value)
    str(caught.value).encode()  # can always be printed


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a.bin",
        ".hidden",
        "a..b",
        "..a",
        "a~b",
        "dir/-x",
        "dir/~x",
        "a.old",
        "a.bad",
        "a.part1",
        "part",
        "a.partial",
        "console.log",
        "com10",
        "nullable",
        "100%.bin",
        "100%25.bin",
        "a%2Fb",
        "日本語/ファイル.bin",
        "a\ufe0fb",
        "ab:c",
        "a" * 238,
        "a" * 255 + "/" + "b" * 238,
        'quote"d',
        "2024-01-01T10:00:00.bin",
    ],
)
def test_a_safe_name_is_taken_as_it_is(name: str) -> None:
    check_name(name)


@given(st.text(alphabet=st.sampled_from("a.%2eEfF5cC/\\:~- \0ä"), max_size=12) | st.text(max_size=20))
def test_an_accepted_name_stays_in_its_folder(name: str) -> None:
    try:
        check_name(name)
    except EntryError:
        return
    for path in (name, name.replace("\\", "/")):
        whole = os.path.normpath(os.path.join("/out", path))
        assert whole == f"/out/{path}"
        assert not whole.startswith("/out/.bulkspider")
    assert not name.lower().endswith(OWN_SUFFIXES)
    assert all(len(part.encode()) <= 255 for part in name.split("/"))


@given(st.text())
def test_names_fold_alike_in_every_unicode_form(name: str) -> None:
    assert fold(unicodedata.normalize("NFC", name)) == fold(unicodedata.normalize("NFD", name))
    assert fold("Ä/B") == fold("a\u0308/b")


# -------------------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://h/x", "https://h/x"),
        ("https://h", "https://h/"),
        ("https://h?x=1", "https://h/?x=1"),
        ("HTTPS://H:443/X", "https://h:443/X"),
        ("https://münchen.de/ä ö?q=ü", "https://xn--mnchen-3ya.de/%C3%A4%20%C3%B6?q=%C3%BC"),
        ("https://h/x#part", "https://h/x"),
        ("https://h/x?sig=a%2Bb%2f%3D+c", "https://h/x?sig=a%2Bb%2f%3D+c"),
        ("https://user:p%40ss@h/x", "https://user:p%40ss@h/x"),
        ("http://my_host-1.example.com./x", "http://my_host-1.example.com./x"),
        ("http://127.0.0.1:65535/x", "http://127.0.0.1:65535/x"),
    ],
)
def test_a_url_has_one_normal_form(url: str, normal: str) -> None:
    assert normal_url(url) == normal
    assert normal_url(normal) == normal
    assert safe_url_string(normal) == normal  # the URL of the Request is the same


@pytest.mark.skipif("[" not in safe_url_string("http://[::1]/"), reason="this w3lib, and so this Scrapy, knows no IPv6")
def test_an_ipv6_host_keeps_its_brackets() -> None:
    assert normal_url("http://[2001:DB8::1]:8080/x") == "http://[2001:db8::1]:8080/x"
    assert origin_of("http://[2001:db8::1]/x") == "[2001:db8::1]:80"


@given(st.text(alphabet=string.ascii_letters + string.digits + "_.~!$&()+;=:@%/?-*,'[]|^{}`\\\"<> ä#", max_size=30))
def test_scrapy_has_nothing_to_change_in_a_normal_url(path: str) -> None:
    normal = normal_url(f"https://h.example/{path}")
    assert safe_url_string(normal) == normal
    assert normal_url(normal) == normal


def test_origin_and_slot() -> None:
    assert origin_of("https://user:pw@H.example/x") == "h.example:443"
    assert origin_of("http://h:8080/x") == "h:8080"
    assert origin_of("http://h:8080/x/y?z=http://i/") == "h:8080"
    assert origin_of("http://h") == "h:80"
    assert origin_of("http://h?x=a/b") == "h:80"
    assert origin_of("https://[::1]:8443/x") == "[::1]:8443"
    assert slot_of("https://user:pw@H.example:8443/x") == "h.example"


def test_userinfo_is_taken_out_and_nothing_else() -> None:
    assert without_userinfo("https://us@er:p%40w@h:1/a@b?c=d@e") == "https://h:1/a@b?c=d@e"
    assert without_userinfo("https://h?x@y") == "https://h?x@y"
    assert without_userinfo("https://h/x") == "https://h/x"


SIGNED = [
    "X-Amz-Algorithm=a&X-Amz-Credential=A%2FB&X-Amz-Date=1&X-Amz-Expires=2&X-Amz-Security-Token=q&X-Amz-Signature=abc",
    "AWSAccessKeyId=A&Signature=b%3D&Expires=1",
    "Policy=e30_&Signature=x~&Key-Pair-Id=K",
    "X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Date=c&X-Goog-Expires=d&X-Goog-SignedHeaders=e&X-Goog-Signature=f",
    "sv=2022-11-02&st=1&se=2&sr=b&sp=r&spr=https&skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=5&sig=a%2Bb%3D",
    "hdnea=st=1~exp=2~acl=/*~hmac=ab",
    "__gda__=1_2",
    "token=abc&expires=1",
    "access_token=abc",
    "x-oss-signature-version=a&x-oss-credential=b&x-oss-date=c&x-oss-expires=d&x-oss-signature=e",
]


@pytest.mark.parametrize("query", SIGNED)
def test_a_fresh_signature_does_not_change_the_key(query: str) -> None:
    plain = url_key("https://h/x?part=1")
    assert url_key(f"https://h/x?part=1&{query}") == plain
    assert url_key(f"https://h/x?{query}&part=1") == plain
    assert url_key(f"https://user:pw@h:443/x?{query}&part=1") == plain


def test_whatever_says_which_object_changes_the_key() -> None:
    urls = [
        "https://h/x",
        "http://h/x",
        "https://h:8443/x",
        "https://i/x",
        "https://h/X",
        "https://h/x?part=1",
        "https://h/x?part=2",
        "https://h/x?se=2",  # an episode, as long as there is no sig
        "https://h/x?x-oss-process=resize",
        "https://h/x?versionId=1",
    ]
    assert len({url_key(url) for url in urls}) == len(urls)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://h/x", "http://h/x"),
        ("http://h:80/x", "http://h/x"),
        ("https://h:443/x", "https://h/x"),
        ("http://h:443/x", "http://h:443/x"),
        ("http://h:8080/a/b%20c;v=1", "http://h:8080/a/b%20c;v=1"),
        ("http://h/a:80/x", "http://h/a:80/x"),
        ("http://me:secret@h/x", "http://h/x"),
    ],
)
def test_what_the_key_of_a_url_is_made_of(url: str, text: str) -> None:
    """Ledgers of earlier versions hold such keys."""
    assert url_key(url) == hashlib.sha256(text.encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- redaction


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@h/x", "https://***@h/x"),
        ("https://token@h/x", "https://***@h/x"),
        ("https://us@er:p'w@h/x", "https://***@h/x"),
        (
            "<GET https://h/x?a=1&X-Amz-Signature=abc&b=2> (failed)",
            "<GET https://h/x?a=1&X-Amz-Signature=***&b=2> (failed)",
        ),
        ("https://h/x?SIGNATURE=abc", "https://h/x?SIGNATURE=***"),
        ("two: https://a:b@h/x?sig=q https://c@i/y?token=z", "two: https://***@h/x?sig=*** https://***@i/y?token=***"),
        (
            "https://l/?next=https%3A%2F%2Fh%2Fx%3Fsig%3Dabc%26y%3D1&z=2",
            "https://l/?next=https%3A%2F%2Fh%2Fx%3Fsig%3D***%26y%3D1&z=2",
        ),
        ("Authorization: Basic dXNlcjpwdw==\r\nAccept: */*", "Authorization: ***\r\nAccept: */*"),
        ("{b'Cookie': [b'a=b; c=d']}", "{b'Cookie': ***"),
        ("set-cookie: a=b", "set-cookie: ***"),
        ("a http://h/x header:X-Key=abc def", "a http://h/x header:X-Key=***"),
        ("password='abc'", "password='***'"),
        ("nothing to hide", "nothing to hide"),
        ("https://h/x?a=1&size=2", "https://h/x?a=1&size=2"),
        ("user@example.com a=b 10:20:30", "user@example.com a=b 10:20:30"),
        ("to //user:pw@h/x", "to //***@h/x"),
        ("'//user:pw@h/x'", "'//***@h/x'"),
        ("https://h//a@b", "https://h//a@b"),
        ("https://h/x?A-userid=jane&female=1&size=2", "https://h/x?A-userid=***&female=1&size=2"),
        ("https://h/x?email=jane%40x.org&user_name=j&b=2", "https://h/x?email=***&user_name=***&b=2"),
        ("https://h/x?e-mail=a@b.c&contact_email=a@b.c&users=3", "https://h/x?e-mail=***&contact_email=***&users=3"),
        ("", ""),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


FRAGMENTS = st.sampled_from(
    [
        *(
            "https://",
            "user:pw@",
            "h",
            "/",
            "?",
            "&",
            "=",
            "sig",
            "token",
            "X-Amz-Signature",
            "A-userid",
            "e-mail",
            "abc",
            " ",
            "\n",
            "'",
            '"',
        ),
        *("#", "%3D", "%3F", "%26", "Authorization", ": ", "Cookie", "header:", "***", "@", ":", "<", ">", ";"),
    ]
)


@given(st.lists(FRAGMENTS | st.text(max_size=3), max_size=25).map("".join))
def test_redaction_twice_is_redaction_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(
    st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.sampled_from(["sig", "token", "X-Amz-Date"])
)
def test_no_secret_of_a_normal_url_is_shown(password: str, value: str, parameter: str) -> None:
    url = f"https://u:{quote('pw' + password, safe='')}@h/x?a=1&{parameter}={quote('vl' + value, safe='')}&b=2"
    shown = redact(f"Gave up <GET {normal_url(url)}>: no answer")
    assert shown == f"Gave up <GET https://***@h/x?a=1&{parameter}=***&b=2>: no answer"


# ------------------------------------------------------------------------------------------------------------- Entry


def test_the_meta_of_an_entry_says_only_what_is_set() -> None:
    entry = Entry(1, "a", "https://h/x")
    assert entry.to_meta() == {"line": 1, "name": "a", "url": "https://h/x"}


@given(
    st.builds(
        Entry,
        line=st.integers(1),
        name=st.text(),
        url=st.text(),
        size=st.none() | st.integers(0),
        digests=st.lists(st.tuples(st.sampled_from(["md5", "sha256"]), st.text("0123456789abcdef"))).map(tuple),
        mirrors=st.lists(st.text()).map(tuple),
        headers=st.lists(st.tuples(st.text(), st.text())).map(tuple),
        segments=st.none() | st.integers(1),
    )
)
def test_an_entry_survives_meta_and_json(entry: Entry) -> None:
    assert Entry.from_meta(entry.to_meta()) == entry
    assert Entry.from_meta(json.loads(json.dumps(entry.to_meta()))) == entry


def test_an_entry_can_be_logged() -> None:
    entry = line("a https://user:s3cret@h/x?sig=s3cret header:Cookie=s3cret mirror=https://u:s3cret@m/")
    assert "s3cret" not in repr(entry) + str(entry)


# ------------------------------------------------------------------------------------------------ the fast path agrees

NAME = st.sampled_from(
    [
        *(
            "a",
            "A.bin",
            "ab",
            "con",
            "con.txt",
            "CON",
            "conx",
            "nul/x",
            "x/aux.y",
            "a.part",
            "x.part.json",
            "a.PART.OLD",
        ),
        *("wget", "curl", "Curl.exe", "iwr", "wget2", "wgetx", "wget.a", "bin/wget", "aria2c", "axel/a", "wget -c"),
        *(".a", "a.", "a-", "-a", "a/b", "a//b", "a/", "/a", "a/.b", "a/-b", "a./b", "a/..", "a..b", "_", "ä", "a b"),
        *("a%20", "~a", "x" * 237, "x" * 238, "x" * 239, "y/" + "x" * 236, "#a", "lpt1", "com0.x", "a.part.json.tmp"),
        *(".bulkspider/a", "a/.bulkspider", "a:b", "a'b", "a\\b", "con/a", "a/con", "a/con.x/b"),
        *(
            "größe.bin",
            "GRÖSSE.BIN",
            "ä/ö/ü",
            "日本/データ.nc",
            "e\u0301.txt",
            "ß" * 119,
            "ß" * 118 + "x",
            "ä" * 128 + "/a",
        ),
        *(
            "com¹.txt",
            "a/lpt²",
            "co\u212a",
            "a.part.j\u017fon",
            "ä.part",
            "ä.",
            "ä./b",
            "\u00a0a",
            "a\u3000",
            "a\u3000b",
        ),
        *("a\u200bb", "a\u202eb", "a\x85b", "\ufeffa", "ä..b", "-ä", "~ä", ".ä", "ﬁ.bin", "İ", "con.ä", "ä/con"),
    ]
)
MARK = st.sampled_from([" ", "  ", "\t", ",", ", ", " \t", "", ";", '"'])
URL = st.sampled_from(
    [
        *(
            "http://h/x",
            "https://h.example.com:8080/a/b.c?d=e&f=%2F",
            "http://h",
            "http://h/",
            "http://H/x",
            "http://h:0/x",
        ),
        *(
            "http://h:99999/x",
            "http://-h/x",
            "http://h..i/x",
            "ftp://h/x",
            "http://u:p@h/x",
            "http://h/x#y",
            "http://h/ä",
        ),
        *("http://h/a.bin;12", "http://h/a;12/b", f"http://h/a;{SHA256}", "http://h/a;b"),
        *("http://h/a'b", "http://h/a,b", "http://h/[x]", "http://h/x?a=***", "http://1.2.3.4/x", "http://[::1]/x"),
        *(
            "https://h/con",
            "https://h/a.part",
            "https://h/a/b/x.tar.gz",
            "https://h/.x",
            "http://h_i/x",
            "https://h/a%2Fb",
        ),
        *("https://h/x\\y", "http://h/nul.x", f"http://{'h' * 63}/x", f"http://{'h' * 64}/x"),
        f"http://{'.'.join(['h' * 50] * 6)}/x",
    ]
)
FIELD = st.sampled_from(
    [
        *("size=1", "size=01", "size=", f"size={'9' * 18}", f"size={'9' * 19}", f"sha256={SHA256}", "sha256=abc", ""),
        *(f"sha256={SHA256.upper()}", f"md5={MD5}", "x"),
        *("mirror=https://m/x", "mirror=https://m/x?mirror=y", "mirror=http://M/x", "mirror=", "mirror=http://h/x"),
    ]
)
LINE = st.tuples(
    NAME | st.just(""), MARK, URL, st.lists(st.tuples(MARK, FIELD), max_size=3), st.sampled_from(["", "\r", " "])
)


def both(form: Form, text: str) -> None:
    try:
        slow = parse_json(text, 3) if form.json else parse_line(text, 3, form.columns)
    except EntryError:
        slow = None
    fast = form.plain(text.encode(), 3)
    assert fast is None or fast == slow
    name = form.plain_name(text.encode())
    if name is not None:
        assert slow is not None
        assert name.decode() == slow.name
        assert key_of_plain(name) == fold(slow.name).encode()
    among_others(form, text.encode(), fast)


def among_others(form: Form, raw: bytes, plain: Entry | None) -> None:
    """In a text of many lines a line is what it is alone."""
    row, blank, _ = form.rows(raw + b"\n\nb http://h/b\n")
    line, name, folder, _, site, size, other = row
    assert (line, other) in ((raw, b""), (b"", raw))
    is_plain = bool(line) and (not folder or folder_fits(folder)) and site_fits(site) and key_of_plain(name) is not None
    assert is_plain == (plain is not None)
    if plain is not None:
        assert name.decode() == plain.name
        assert plain.url.startswith(f"{site.decode()}/")
        assert (int(size) if size else None) == plain.size
    assert not any(blank) or form.json
    after = list(form.rows(b"\n" + raw + b"\n"))
    assert len(after) == 2
    assert (after[1][0] or after[1][-1]) == raw


@pytest.mark.parametrize(
    "header", ["", "name url", "name,url", "name\turl", "url", "name,url,size", "url name", "md5,url,name"]
)
@given(parts=LINE)
def test_the_fast_path_and_the_full_parser_agree(
    header: str, parts: tuple[str, str, str, list[tuple[str, str]], str]
) -> None:
    name, mark, url, more, end = parts
    form = Form(parse_header(header) if header else None)
    both(form, name + mark + url + "".join(m + field for m, field in more) + end)


CELL = NAME | URL | st.sampled_from(["", "1", "01", "9" * 19, MD5, MD5.upper(), SHA256, " 1", '"1"', "#", "wget x"])


@pytest.mark.parametrize(
    "header",
    ["name\turl\tsize\tmd5", "url,name,size", "size,url,sha256,name", "line,name,url,status", "name,mirror,url"],
)
@given(st.lists(CELL, max_size=5), st.sampled_from(["", "\r", " "]), st.booleans())
def test_they_agree_on_lines_below_a_header(header: str, cells: list[str], end: str, fits: bool) -> None:
    columns = parse_header(header)
    assert columns is not None
    if fits:
        good = {"name": "d/a", "url": "https://h/d/a", "size": "7", "md5": MD5, "sha256": SHA256, "mirror": "http://m/"}
        cells = [
            cell if number in (0, 2) else good.get(name, "3")
            for number, (name, cell) in enumerate(zip(columns.names, cells, strict=False))
        ]
    both(Form(columns), columns.separator.join(cells) + end)


ROW_VALUES = {
    "name": NAME,
    "url": URL,
    "size": st.sampled_from([None, 0, 1, 10**18, 2.0, -1, "7"]),
    "sha256": st.sampled_from([None, SHA256, SHA256.upper(), "abc", 7]),
    "md5": st.sampled_from([None, MD5]),
    "mirrors": st.lists(st.sampled_from(["https://m/x", "https://m/y?a=b", "http://M/x", "ftp://m/x"]), max_size=3),
    "headers": st.just({}),
}


@given(
    keys=st.permutations(["name", "url", "size", "sha256", "md5", "mirrors", "headers"]),
    count=st.integers(2, 7),
    row=st.fixed_dictionaries(ROW_VALUES),
    style=st.sampled_from([(",", ":"), (", ", ": "), (",  ", ":")]),
    escaped=st.booleans(),
    end=st.sampled_from(["", "\r", " ", "x"]),
)
def test_they_agree_on_rows_of_json_lines(
    keys: list[str], count: int, row: dict[str, Any], style: tuple[str, str], escaped: bool, end: str
) -> None:
    row = {key: row[key] for key in keys[:count]}
    text = json.dumps(row, separators=style, ensure_ascii=escaped) + end
    both(Form(json=True, keys=tuple(row)), text)


def test_json_numbers_that_are_none_are_not_plain() -> None:
    form = Form(json=True, keys=("name", "url", "size"))
    for size in ("01", "1e3", "+1", "1.0", "-0", "1 "):
        both(form, f'{{"name":"a","url":"http://h/x","size":{size}}}')


@given(st.text(alphabet=string.ascii_lowercase + './-_ ,\t:%?&=#"~AB0\r', max_size=40), st.integers(0, 40))
def test_they_agree_on_any_text_around_a_url(text: str, place: int) -> None:
    both(Form(), text[:place] + "http://h/x" + text[place:])


@pytest.mark.parametrize(
    "text",
    [
        "a.bin https://h.example.com/x/a.bin",
        "a.bin\thttps://h/x?X-Amz-Signature=abc&b=%2F",
        "dir/sub/a.bin,https://h:8080/x",
        f"a.bin https://h/x size=10 sha256={SHA256}\r",
        "https://h/dir/a.tar.gz",
        "https://h/a.bin size=3",
        f"a.bin https://h/x md5={MD5}",
        f"a.bin https://h/x size=3 md5={MD5} mirror=https://m/x mirror=https://n/x?y=z",
        "a.bin,https://h/x,mirror=https://m/x",
        "größe/データ.nc https://h/x",
    ],
)
def test_the_commonest_lines_take_the_fast_path(text: str) -> None:
    assert Form().plain(text.encode(), 1) is not None
    both(Form(), text)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("name\turl\tsize\tsha256", f"d/a.bin\thttps://h/x\t10\t{SHA256}"),
        ("name\turl\tsize\tsha256", "d/a.bin\thttps://h/x\t\t"),
        ("md5,size,url,file", f"{MD5},10,https://h/x,d/a.bin\r"),
        ("line,name,url,status,size", "3,a.bin,https://h/x,verified,7"),
        ("name,url,mirror", "a.bin,https://h/x,https://m/x"),
        ("name,url,mirror", "ä.bin,https://h/x,"),
    ],
)
def test_the_commonest_lines_below_a_header_take_the_fast_path(header: str, text: str) -> None:
    form = Form(parse_header(header))
    assert form.plain(text.encode(), 1) is not None
    both(form, text)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a.bin", "url": "https://h/x"},
        {"url": "https://h/x", "name": "d/ä.bin", "size": 7, "sha256": SHA256, "md5": None},
        {"name": "a.bin", "size": None, "mirrors": ["https://m/x", "https://n/x"], "url": "https://h/x"},
        {"name": "a.bin", "url": "https://h/x", "mirrors": []},
    ],
)
@pytest.mark.parametrize("style", [(",", ":"), (", ", ": ")])
def test_the_commonest_rows_of_json_lines_take_the_fast_path(row: dict[str, Any], style: tuple[str, str]) -> None:
    form = Form(json=True, keys=tuple(row))
    text = json.dumps(row, separators=style, ensure_ascii=False)
    assert form.plain(text.encode(), 1) is not None
    both(form, text)
