"""Lists that people already have: each in its own form end to end, with a server behind it, and broken."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.entries.entry import Entry, EntryError, parse_json
from bulkspider.entries.names import Naming
from bulkspider.errors import ListError, UsageError
from bulkspider.lists.checking.reader import Form
from bulkspider.lists.formats.choose import FORMATS, HEAD_BYTES, Reading, find
from bulkspider.lists.formats.row import Row
from bulkspider.lists.listsource import ListSource
from bulkspider.lists.opening import check_list
from support.faulty import FaultyOrigin, good, make_body
from support.memory import held_by_python
from support.shell import Shell

# Where they lie on the server, and what they hold; with a name that must be escaped in a URL.
PATHS = ("vol1/a.bin", "vol1/sub/b c%.bin", "vol1/c.bin")
FILES = {path: make_body(1000 + len(path), seed=path) for path in PATHS}
NAMES = [path.removeprefix("vol1/") for path in PATHS]


def hashed(kind: str, path: str) -> str:
    return hashlib.new(kind, FILES[path]).hexdigest()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    behaviours = {path: (good, body) for path, body in FILES.items()}
    behaviours |= {f"api/access/datafile/{number}": (good, body) for number, body in enumerate(FILES.values(), 1)}
    with FaultyOrigin(behaviours) as serving:
        yield serving


def url_of(origin: FaultyOrigin, path: str) -> str:
    return origin.url("") + quote(path)


# --- Examples ----------------------------------------------------------------------------------------------------------

# A list that names the three files, its name and options; how its files are called; whether they are verified.
Example = tuple[str, str, list[str], list[str], bool]


def urls(origin: FaultyOrigin) -> Example:
    lines = ["# what wget -i reads", url_of(origin, PATHS[0]), quote(PATHS[1]), "", url_of(origin, PATHS[2])]
    options = ["--format", "urls", "--base", origin.url("").rstrip("/")]
    return "\n".join(lines), "urls.txt", options, ["a.bin", "b c%.bin", "c.bin"], False


def urls_named_by_their_path(origin: FaultyOrigin) -> Example:
    lines = [url_of(origin, path) for path in PATHS]
    return "\n".join(lines), "urls.txt", ["--format", "urls", "--cut", "1"], NAMES, False


def our_list_named_by_paths(origin: FaultyOrigin) -> Example:
    lines = ["heading", *(url_of(origin, path) for path in PATHS)]
    return "\n".join(lines), "list.txt", ["--names", "path"], list(PATHS), False


def paths(origin: FaultyOrigin) -> Example:
    options = ["--format", "paths", "--base", origin.url(""), "--names", "path"]
    return "\n".join(PATHS), "warc.paths", options, list(PATHS), False


def sums(origin: FaultyOrigin) -> Example:
    lines = [f"{hashed('sha256', PATHS[0])}  ./a.bin", f"{hashed('sha256', PATHS[1])} *sub/b c%.bin"]
    lines.append(f"MD5 (c.bin) = {hashed('md5', PATHS[2])}")
    return "\n".join(lines), "SHA256SUMS", ["--base", origin.url("vol1")], NAMES, True


def ena(origin: FaultyOrigin) -> Example:
    host = origin.url("").removeprefix("http://")
    links = [host + quote(path) for path in PATHS]
    sizes = [str(len(FILES[path])) for path in PATHS]
    md5 = [hashed("md5", path) for path in PATHS]
    text = f"""run_accession\tfastq_ftp\tfastq_md5\tfastq_bytes\tsubmitted_ftp
SRR000001\t{links[0]};{links[1]}\t{md5[0]};{md5[1]}\t{sizes[0]};{sizes[1]}\t
SRR000002\t\t\t\t
SRR000003\t{links[2]}\t{md5[2]}\t{sizes[2]}\t{host}nowhere
"""
    return text, "filereport_read_run_PRJNA1.tsv", [], ["a.bin", "b c%.bin", "c.bin"], True


def metalink4(origin: FaultyOrigin) -> Example:
    host = origin.url("")
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <generator>x</generator>
  <file name="a.bin"><size>{len(FILES[PATHS[0]])}</size>
    <publisher name="me" url="http://example.org"/>
    <pieces length="512" type="sha-1"><hash>{"0" * 40}</hash><hash>{"1" * 40}</hash></pieces>
    <hash type="sha-256">{hashed("sha256", PATHS[0]).upper()}</hash>
    <url location="de" priority="2">{host}nowhere</url>
    <url priority="1">{host}vol1/a.bin</url>
    <metaurl mediatype="torrent">http://example.org/a.torrent</metaurl>
    <url priority="3">ftp://example.org/a.bin</url>
  </file>
  <file name="sub/b c%.bin"><hash type="md5">{hashed("md5", PATHS[1])}</hash><hash type="sha-384">00</hash>
    <url>{url_of(origin, PATHS[1])}</url></file>
  <file name="c.bin"><url><![CDATA[{host}vol1/c.bin]]></url><hash type="sha-1">{hashed("sha1", PATHS[2])}</hash></file>
</metalink>"""
    return text, "files.meta4", [], NAMES, True


def metalink3(origin: FaultyOrigin) -> Example:
    files = "".join(
        f"""<m:file name="{path.removeprefix("vol1/")}">
  <m:publisher><m:name>me</m:name><m:url>http://example.org/</m:url></m:publisher><m:size>{len(FILES[path])}</m:size>
  <m:verification><m:hash type="sha256">{hashed("sha256", path)}</m:hash>
    <m:pieces length="9" type="sha1"><m:hash piece="0">{"0" * 40}</m:hash></m:pieces></m:verification>
  <m:resources><m:url type="http" preference="10">{origin.url("nowhere")}</m:url>
    <m:url type="http" preference="90">{url_of(origin, path)}</m:url></m:resources></m:file>
"""
        for path in PATHS
    )
    text = f'<m:metalink version="3.0" xmlns:m="http://www.metalinker.org/"><m:files>\n{files}</m:files></m:metalink>'
    return text, "files.metalink", [], NAMES, True


def esgf(origin: FaultyOrigin) -> Example:
    rows = "\n".join(
        f"'{path.removeprefix('vol1/')}' '{url_of(origin, path)}' 'SHA256' '{hashed('sha256', path)}'" for path in PATHS
    )
    text = f"""#!/bin/bash
# ESG Federation download script
download() {{ wget -c "$1"; }}
download_files="$(cat <<EOF--dataset.file.url.chksum_type.chksum
{rows}
EOF--dataset.file.url.chksum_type.chksum
)"
echo 'not' 'a' 'file' 'row'
"""
    return text, "wget-20260101.sh", [], NAMES, True


def internet_archive(origin: FaultyOrigin) -> Example:
    files = "".join(
        f"""  <file name="{path.removeprefix("vol1/")}" source="original"><size>{len(FILES[path])}</size>
    <md5>{hashed("md5", path)}</md5><crc32>{zlib.crc32(FILES[path]):08x}</crc32><sha1>{hashed("sha1", path)}</sha1></file>
"""
        for path in PATHS
    )
    hidden = '  <file name="hidden.bin" source="original"><private>true</private></file>\n'
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<files>\n{files}{hidden}</files>"
    return text, "scans_files.xml", ["--base", origin.url("vol1/")], NAMES, True


def hugging_face(origin: FaultyOrigin) -> Example:
    rows: list[object] = [{"type": "directory", "oid": "00", "size": 0, "path": "sub"}]
    for path in PATHS:
        file = {"type": "file", "oid": "ab" * 20, "size": len(FILES[path]), "path": path.removeprefix("vol1/")}
        rows.append({**file, "lfs": {"oid": hashed("sha256", path), "size": len(FILES[path]), "pointerSize": 9}})
    return json.dumps(rows), "tree.json", ["--base", origin.url("vol1/")], NAMES, True


def zenodo(origin: FaultyOrigin) -> Example:
    files = [
        {
            "id": "x",
            "key": path.removeprefix("vol1/"),
            "size": len(FILES[path]),
            "checksum": f"md5:{hashed('md5', path)}",
            "links": {"self": url_of(origin, path)},
        }
        for path in PATHS
    ]
    record = {"id": 1, "metadata": {"files": [1], "title": "é"}, "files": files, "owners": [{"id": 1}]}
    return json.dumps(record, indent=1), "record.json", [], NAMES, True


def invenio(origin: FaultyOrigin) -> Example:
    entries = {
        path.removeprefix("vol1/"): {
            "key": path.removeprefix("vol1/"),
            "size": len(FILES[path]),
            "checksum": f"md5:{hashed('md5', path)}",
            "links": {"self": origin.url("nowhere"), "content": url_of(origin, path)},
        }
        for path in PATHS
    }
    return json.dumps({"files": {"enabled": True, "entries": entries}}), "record.json", [], NAMES, True


def figshare(origin: FaultyOrigin) -> Example:
    files: list[object] = [
        {"id": 1, "name": name, "size": len(FILES[path]), "is_link_only": False, "download_url": url_of(origin, path)}
        | {"supplied_md5": "", "computed_md5": hashed("md5", path)}
        for name, path in zip(NAMES, PATHS, strict=True)
    ]
    files.append({"id": 2, "name": "elsewhere", "is_link_only": True, "download_url": "https://example.org/"})
    return json.dumps({"url": "https://api.figshare.com/v2/articles/1", "files": files}), "1.json", [], NAMES, True


def dataverse(origin: FaultyOrigin) -> Example:
    files = [
        {"label": "a.tab", "dataFile": {"filename": "a.tab", "filesize": 1}},
        {"label": "b c%.bin", "directoryLabel": "sub", "dataFile": {"id": 2, "filename": "b c%.bin"}},
        {"label": "c.bin", "dataFile": {"id": 3, "filename": "c.bin", "filesize": len(FILES[PATHS[2]])}},
    ]
    first, second, third = (file["dataFile"] for file in files)
    first |= {"id": 1, "originalFileName": "a.bin", "originalFileSize": len(FILES[PATHS[0]])}
    for data, path in zip((first, second), PATHS, strict=False):
        data["checksum"] = {"type": "SHA-1", "value": hashed("sha1", path)}
    third["md5"] = hashed("md5", PATHS[2])
    text = json.dumps({"status": "OK", "data": {"id": 9, "latestVersion": {"id": 8, "files": files}}})
    return text, "dataset.json", ["--base", origin.url("")], NAMES, True


def table(origin: FaultyOrigin) -> Example:
    rows = ["\ufeffTitle;Download link;Bytes;Checksum"]
    for name, path in zip(NAMES, PATHS, strict=True):
        rows.append(f'"{name}";{url_of(origin, path)};{len(FILES[path])};{hashed("md5", path)}')
    options = ["--format", "csv", "--columns", "name=title,url=Download link,size=3,md5=Checksum"]
    return "\r\n".join(rows), "files.csv", options, NAMES, True


EXAMPLES = [urls, urls_named_by_their_path, our_list_named_by_paths, paths, sums, ena, metalink4, metalink3, esgf]
EXAMPLES += [internet_archive, hugging_face, zenodo, invenio, figshare, dataverse, table]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_every_file_of_it_is_fetched_and_verified(
    example: Callable[[FaultyOrigin], Example], shell: Shell, origin: FaultyOrigin
) -> None:
    text, name, options, names, verified = example(origin)
    shell.write(name, text)
    said = shell.bulk(name, "-o", "out", *options)
    assert said.status == 0, said.log
    assert shell.files() == {name: text.encode()} | {
        f"out/{named}": FILES[path] for named, path in zip(names, PATHS, strict=True)
    }
    assert f"3 {'verified' if verified else 'complete'}" in said.log
    if example is not our_list_named_by_paths:
        assert f"{name}: " in said.log
        assert ", 3 entries" in said.log, "the start says what was found"
    asked = len(origin.requests)
    said = shell.bulk(name, "-o", "out", *options)
    assert said.status == 0, said.log
    assert len(origin.requests) == asked, "nothing is fetched twice"


def test_a_bag_is_a_folder_and_is_completed_in_its_place(shell: Shell, origin: FaultyOrigin) -> None:
    (shell.folder / "bag").mkdir()
    shell.write("bag/bagit.txt", "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    names = ("data/a.bin", "data/b c%.bin", "data/c.bin")
    fetch = [
        f"{url_of(origin, PATHS[0])} {len(FILES[PATHS[0]])} {names[0]}",
        f"{url_of(origin, PATHS[1])} - data/b c%25.bin",
        f"{url_of(origin, PATHS[2])} -  data/c.bin",
    ]
    shell.write("bag/fetch.txt", "\n".join(fetch))
    shell.write("bag/manifest-sha256.txt", f"{hashed('sha256', PATHS[0])}  data/a.bin\n")
    sums = [f"{hashed('sha512', path)}  {name.replace('%', '%25')}" for name, path in zip(names, PATHS, strict=True)]
    shell.write("bag/manifest-sha512.txt", "\n".join(sums))
    shell.write("bag/manifest-sha3512.txt", "00 data/a.bin")
    shell.write("bag/tagmanifest-md5.txt", "00 bagit.txt")
    said = shell.bulk("bag", "-o", "bag")
    assert said.status == 0, said.log
    for name, path in zip(names, PATHS, strict=True):
        assert shell.files()[f"bag/{name}"] == FILES[path]
    assert "3 verified" in said.log
    assert "bag: the fetch.txt of a bag, 3 entries" in said.log

    shell.write("bag/manifest-sha256.txt", "no hash\n")
    said = shell.bulk("bag", "-o", "bag")
    assert said.status == 1
    assert "manifest-sha256.txt:1: not a checksum line" in said.log


def test_ftp_links_of_hosts_that_serve_https_are_asked_by_https(tmp_path: Path) -> None:
    text = "run_accession\tfastq_ftp\nE1\tftp.sra.ebi.ac.uk/vol1/x.gz\nE2\tftp://ftp.ncbi.nlm.nih.gov/y.gz\n"
    assert [entry.url for entry in entries(tmp_path, text)] == [
        "https://ftp.sra.ebi.ac.uk/vol1/x.gz",
        "https://ftp.ncbi.nlm.nih.gov/y.gz",
    ]
    mirrored = entries(tmp_path, text.replace("ftp://ftp.ncbi.nlm.nih.gov", "h"), base="http://mirror/ena")
    assert [entry.url for entry in mirrored] == ["http://mirror/vol1/x.gz", "http://mirror/y.gz"]


def test_columns_of_an_ena_report_can_be_chosen(tmp_path: Path) -> None:
    text = "run\tfastq_ftp\tsra_ftp\tsra_md5\nE1\th.org/a.gz\th.org/a.sra\t" + "0" * 32 + "\n"
    assert [entry.name for entry in entries(tmp_path, text)] == ["a.gz"]
    (entry,) = entries(tmp_path, text, columns="sra_ftp")
    assert (entry.name, dict(entry.digests)) == ("a.sra", {"md5": "0" * 32})
    with pytest.raises(UsageError, match="columns of the report are fastq_ftp, sra_ftp"):
        entries(tmp_path, text, columns="bam_ftp")


# --- In this process: what is found, what is broken, what names mean ------------------------------------------------------


def check(folder: Path, text: str, name: str = "list", skip_bad: bool = False, **arguments: str) -> ListSource:
    private = folder / ".bulkspider"
    private.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode())
    reading = Reading.parse(arguments)
    return check_list(str(path), private, reading=reading, bad_lines="skip" if skip_bad else "stop")


def entries(folder: Path, text: str, name: str = "list", **arguments: str) -> list[Entry]:
    source = check(folder, text, name, **arguments)
    taken = []
    while (entry := source.take()) is not None:
        taken.append(entry)
    source.close()
    return taken


MD5 = "0" * 32
META4 = 'xmlns="urn:ietf:params:xml:ns:metalink"'
ESGF = 'download_files="$(cat <<EOF--dataset.file.url.chksum_type.chksum'
BROKEN = {
    "items": ('{"file": "http://h/a"}\n["http://h/b"]\n', {"url_field": "file"}, 2, "this is no item"),
    "urls": ("http://h/a\n\nhttp://h/b c\n", {}, 3, "is more than a URL"),
    "urls without base": ("http://h/a\nb/c\n", {"format": "urls"}, 2, "the URL has no scheme and no host"),
    "paths": ("a/b\n#\n../x\n", {"base": "http://h/"}, 3, "leads out of its folder"),
    "sums": (f"{MD5}  a\n{MD5}\n", {"base": "http://h/"}, 2, "not a checksum line"),
    "sums of the wrong length": ("SHA256 (a) = 00\n", {"base": "http://h/", "format": "sums"}, 1, "a sha256 hash with"),
    "ena": (
        f"run\tfastq_ftp\tfastq_md5\tfastq_bytes\nA\th/a;h/b\t{MD5}\t1;2\nB\th/c\t{MD5}\t1\n",
        {},
        2,
        "2 files, but 1 hashes and 2 sizes",
    ),
    "ena cut off": ("run\tfastq_ftp\tfastq_md5\nA\th/a\t\nB\th/b\n", {"format": "ena"}, 3, "the row has 2 cells"),
    "bagit": ("http://h/a 1 data/a\nhttp://h/b data/b\n", {}, 2, "is no line of a fetch.txt"),
    "metalink": (
        f'<metalink {META4}>\n<file name="a"><url>http://h/a</url></file>\n<file name="b">\n<url>magnet:?x</url></file></metalink>',
        {},
        3,
        "is no http or https URL",
    ),
    "metalink cut off": (
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n<file name="a"><url>http://h/a</url></file>\n<fi',
        {"format": "metalink"},
        3,
        "the XML is damaged or cut off",
    ),
    "metalink with entities": (
        '<!DOCTYPE x [<!ENTITY a "b">]>\n<metalink version="3.0"><file name="&a;"/></metalink>',
        {"format": "metalink"},
        1,
        "the document has a DTD",
    ),
    "esgf": (f"#!/bin/bash\n{ESGF}\n'a' 'http://h/a'\n'b'\n{ESGF[-40:]}\n", {}, 4, "is no row of the script's table"),
    "esgf cut off": (
        "#!\ndownload_files=\"$(cat <<EOF--dataset.file.url.chksum_type.chksum\n'a' 'http://h/a'\n",
        {"format": "esgf"},
        3,
        "the table of the script does not end",
    ),
    "ia": (
        f'<files>\n<file name="a"><md5>{MD5}</md5></file>\n<file name="../b"/></files>',
        {"base": "http://h/"},
        3,
        "leads out of its folder",
    ),
    "ia without its name": ("<files><file name='a'/></files>", {"format": "ia"}, 1, "which item of archive.org"),
    "hf": (
        '[{"type":"file","oid":"1","path":"a"},\n{"type":"file","oid":"1"}]',
        {"base": "http://h/"},
        2,
        "other keys",
    ),
    "zenodo": (
        '{"files": [\n{"key": "a", "checksum": "md5:' + MD5 + '", "links": {"self": "http://h/a"}},\n{"key": "b"}]}',
        {},
        3,
        "other keys",
    ),
    "zenodo with a number without end": (
        '{"files": [\n{"size": ' + "9" * 5000 + "}]}",
        {"format": "zenodo"},
        2,
        "too long",
    ),
    "zenodo cut off": ('{"files": [\n{"checksum": "md5:' + MD5 + '",\n"links"', {"format": "zenodo"}, 3, "cut off"),
    "figshare": ('{"files": [\n{"computed_md5": "x", "name": "a"}]}', {}, 2, "other keys"),
    "dataverse": ('{"data": {"files": [\n{"dataFile": {"filename": "a"}}]}}', {"base": "http://h/"}, 2, "other keys"),
    "csv": ('name;url\na;http://h/a\n"b;http://h/b\n', {}, 3, "the quotes do not match"),
    "csv without a URL": ("url;name\nhttp://h/a;a\n;b\n", {"format": "csv"}, 3, "the cell of the URL is empty"),
    "aria2": ("http://h/a\n  out=../a\n", {}, 2, "would leave the output folder"),
}


@pytest.mark.parametrize(("which", "broken"), BROKEN.items(), ids=BROKEN)
def test_what_is_broken_is_named_with_its_line(
    which: str, broken: tuple[str, dict[str, str], int, str], tmp_path: Path
) -> None:
    text, arguments, line, what = broken
    if which in ("urls", "paths", "bagit", "csv", "aria2"):
        arguments = {**arguments, "format": which}
    with pytest.raises(ListError) as refused:
        check(tmp_path, text, **arguments)
    assert [problem.line for problem in refused.value.problems] == [line], str(refused.value)
    assert what in str(refused.value)
    assert f"{tmp_path / 'list'}:{line}: " in str(refused.value)


def test_every_format_has_a_broken_example() -> None:
    assert set(FORMATS) == set(BROKEN) & set(FORMATS)


def test_broken_lines_can_be_skipped(tmp_path: Path) -> None:
    text = '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a"><url>http://h/a</url></file>\n<file name="b"/>'
    source = check(tmp_path, text + "\n<file name='c'><url>http://h/c</url></file></metalink>", skip_bad=True)
    assert [(bad.line, bad.name) for bad in source.bad] == [(2, "b")]
    assert source.entries == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "list"),
        ("heading\na http://h/a\n", "list"),
        ("http://h/a\nhttp://h/b\n", "list"),
        ("a/b.gz\nc/d.gz\n", "list"),
        (f"{MD5}  a\nb http://h/b\n", "list"),
        (f"{MD5}  a\n{MD5}  http://h/b\n", "list"),
        ("20260101  report\n", "list"),
        ("<files>\na http://h/a\n", "list"),
        ("<metalink>\na http://h/a\n", "list"),
        ("<html><metalink></html>", "list"),
        ('{"name": "dataFile", "url": "http://h/a", "checksums": {"md5": "' + MD5 + '"}}\n', "list"),
        ('{"url": "http://h/a"}\n{"dataFile": {"files": 1}}', "list"),
        ('[{"x": 1}]', "list"),
        ("#!/bin/sh\nwget http://h/a\n", "list"),
        (f"# sums\n\n{MD5} *a\n\\{MD5}  b\\nc\n", "sums"),
        (f"\ufeffSHA512 (a) = {'0' * 128}", "sums"),
        ("a\tsubmitted_ftp\tb\n", "ena"),
        ("<?xml version='1.0'?><!-- <files> --><files a='b'>\n<file name='x'/>", "ia"),
        ('<m:metalink\n version="3.0">', "metalink"),
        (
            "#!/bin/bash\n" + "#\n" * 40_000 + 'download_files="$(cat <<EOF--dataset.file.url.chksum_type.chksum\n',
            "esgf",
        ),
    ],
)
def test_only_what_cannot_be_ours_is_found_by_its_content(text: str, found: str) -> None:
    assert find(text.encode()) == found


@given(
    st.lists(st.sampled_from(["x", "http://h/a", "a http://h/a", "b,http://h/b", "#", "", "a\thttp://h/a"]), min_size=1)
)
def test_a_plain_list_is_never_taken_for_something_else(lines: list[str]) -> None:
    assert find("\n".join(lines).encode()) == "list"


def test_a_base_alone_changes_nothing_of_our_own_lists(tmp_path: Path) -> None:
    source = check(tmp_path, "heading\na http://h/a\n", base="http://other/")
    assert source.introduction == ""
    assert [entry.url for entry in [source.take()] if entry] == ["http://h/a"]
    assert "base= changes nothing" in source.warnings[0]
    with pytest.raises(ListError, match="there is no URL in this line"):
        check(tmp_path, "heading\na/b.gz\n", base="http://other/")


@pytest.mark.parametrize("name", ["paths", "sums", "hf", "dataverse"])
def test_a_list_that_needs_a_base_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not say where its files are; say --base URL"):
        check(tmp_path, f"{MD5}  a\n", format=name)


def test_a_script_of_other_commands_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="this is a command"):
        check(tmp_path, "#!/bin/sh\nx=1\nwget http://h/a\ncurl -O http://h/b\n")


@pytest.mark.parametrize(
    ("naming", "url", "name"),
    [
        (Naming(), "http://h/a/b%20c.bin?x=1", "b c.bin"),
        (Naming("path"), "http://h/a/b%20c.bin?x=1", "a/b c.bin"),
        (Naming("path", 1), "http://h/a/b/c.bin", "b/c.bin"),
        (Naming("path", 9), "http://h/a/b/c.bin", "c.bin"),
        (Naming("path"), "http://h/Products(1)/$value", "Products(1)/$value"),
        (Naming("path"), "http://h/records/1/files/x.zip/content", "records/1/files/x.zip/content"),
        (Naming("path"), "http://h/download?file=a%2Fb.tif&x=y", "b.tif"),
        (Naming("path"), "http://h/get/download?id=1&filename=b.tif", "get/b.tif"),
        (Naming("path"), "http://h/x?response-content-disposition=attachment%3B%20filename%3D%22c.nc%22", "c.nc"),
        (Naming("path"), "http://h/x?name=me&path=/", "x"),
    ],
)
def test_names_come_from_the_path_or_from_the_query(naming: Naming, url: str, name: str) -> None:
    assert naming(url) == name


@pytest.mark.parametrize("url", ["http://h/", "http://h/a/?x=1", "http://h/%ff"])
def test_a_url_that_names_nothing_is_refused(url: str) -> None:
    for naming in (Naming(), Naming("path")):
        if (naming.by, url) == ("path", "http://h/a/?x=1"):
            continue  # its folder names it
        with pytest.raises(EntryError):
            naming(url)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"format": "metalnk"}, "did you mean metalink"),
        ({"base": "h/x"}, "argument base=h/x: the URL has no scheme"),
        ({"base": "http://h/?a=b"}, "cannot have a query"),
        ({"names": "all"}, "last takes the last part"),
        ({"cut": "-1"}, "must be a number of folders"),
        ({"cut": "1", "names": "last"}, "it is for names=path"),
        ({"columns": "url", "format": "hf"}, "it is for format=ena and format=csv"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, str], what: str) -> None:
    with pytest.raises(UsageError) as refused:
        Reading.parse(arguments)
    assert what in str(refused.value)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("name,url\na,http://h/a\n", None),
        ("url|file\nhttp://h/a|a\n", None),
        ("a;http://h/a\n", "name,url"),
        ("x;a;http://h/a\n", ",name,url"),
        ("x\ta\thttp://h/a\n", "name=2,url=3"),
        ("Link\tTitle\nhttp://h/a\ta\n", "url=link,file=TITLE"),
    ],
)
def test_columns_of_a_table(text: str, columns: str | None, tmp_path: Path) -> None:
    arguments = {"format": "csv"} | ({"columns": columns} if columns else {})
    assert [(entry.name, entry.url) for entry in entries(tmp_path, text, **arguments)] == [("a", "http://h/a")]


@pytest.mark.parametrize("columns", ["url=Adress", "link=url", "name", None])
def test_columns_that_are_not_there_are_named(columns: str | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check(tmp_path, "Title,Link\na,http://h/a\n", format="csv", **({"columns": columns} if columns else {}))


# --- Rows -------------------------------------------------------------------------------------------------------------------

_TEXT = st.text('ab/.%~ {"\t\n\u00e9é', max_size=8)
ROWS = st.builds(
    Row,
    line=st.integers(1, 10**6),
    url=st.builds("http://h/{}".format, _TEXT),
    name=_TEXT,
    size=st.none() | st.integers(0, 10**12),
    digests=st.dictionaries(st.sampled_from(["md5", "sha1"]), st.sampled_from(["0" * 32, "A" * 40, "x", "ab" * 20])),
    mirrors=st.lists(st.builds("https://m/{}".format, _TEXT), max_size=2),
    headers=st.just({}),
    segments=st.none(),
    extra=st.just({}),
)


def outcome(read: Callable[[], Entry | None]) -> Entry | str | None:
    try:
        return read()
    except EntryError as error:
        return error.what


@given(ROWS)
def test_a_plain_row_says_what_its_json_says(row: Row) -> None:
    """The fast way is only taken for rows that both ways read alike; and every way knows the line."""
    form, naming = Form(numbered=True), Naming()
    plain = row.plain(naming)
    if plain is None:
        return
    assert b"\n" not in plain
    assert form.line_of(plain, 0) == row.line
    read = outcome(lambda: form.read(plain, 0))
    if isinstance(read, Entry) or form.plain(plain, 0) is not None:
        assert read == outcome(lambda: parse_json(row.encoded().decode(), 0, numbered=True))
    (found,) = form.rows(plain + b"\n")
    assert (found[0] or found[6]) == plain


def test_plain_rows_are_read_in_the_fast_way() -> None:
    digests = {"md5": "0" * 32, "sha512": "ab" * 64}
    row = Row(7, "http://h.org:80/a/b.bin?c=d", "x/y.bin", 12, digests, ["https://m.org/b.bin"])
    plain = row.plain(Naming())
    assert plain is not None
    form = Form(numbered=True)
    assert list(form.rows(plain + b"\n")) == [(plain, b"x/y.bin", b"x/", b"7", b"http://h.org:80", b"12", b"")]
    assert form.plain(plain, 0) == Entry(7, row.name, row.url, 12, tuple(digests.items()), ("https://m.org/b.bin",))


# --- Long lists --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ena", "metalink", "paths", "hf"])
def test_a_long_list_streams(kind: str, tmp_path: Path) -> None:
    """What is kept of a list does not grow with it, but for a few bytes for each entry."""
    count = 30_000
    head, line, tail = {
        "ena": ("run\tfastq_ftp\n", "E{0}\tftp.sra.ebi.ac.uk/vol1/{0}.gz\n", ""),
        "metalink": (
            '<metalink xmlns="urn:ietf:params:xml:ns:metalink">',
            '<file name="{0}"><size>1</size><url>http://h/{0}</url></file>',
            "</metalink>",
        ),
        "paths": ("", "crawl/{0}.gz\n", ""),
        "hf": ('[{"type":"directory","oid":"1","path":"x"}', ',{{"type":"file","oid":"1","size":1,"path":"{0}"}}', "]"),
    }[kind]
    text = head + "".join(line.format(number) for number in range(count)) + tail
    assert len(text) > HEAD_BYTES or kind in ("paths", "hf", "ena")
    arguments = {"format": kind, "base": "http://h/"}
    path = tmp_path / "list"
    path.write_text(text)
    del text
    with held_by_python() as held:
        source = check_list(str(path), tmp_path, reading=Reading.parse(arguments))
    assert source.entries == count
    source.close()
    assert held.peak < 4 * HEAD_BYTES + 60 * count


# --- The server's time -----------------------------------------------------------------------------------------------------


def test_files_have_the_time_of_the_server_where_that_is_asked_for(shell: Shell, origin: FaultyOrigin) -> None:
    shell.write("list.txt", f"name url\na.bin {origin.url(PATHS[0])}\n")
    assert shell.bulk("list.txt", "-o", "now").status == 0
    assert os.stat(shell.folder / "now/a.bin").st_mtime > 1_750_000_000
    said = shell.bulk("list.txt", "-o", "then", "-s", "BULK_REMOTE_TIME=1")
    assert said.status == 0, said.log
    assert os.stat(shell.folder / "then/a.bin").st_mtime == 1_704_067_200  # the origin's Last-Modified
    (line,) = (shell.folder / "then/.bulkspider/ledger.jsonl").read_text().splitlines()
    assert json.loads(line)["mtime_ns"] == 1_704_067_200 * 10**9
    asked, ledger = len(origin.requests), line
    said = shell.bulk("list.txt", "-o", "then", "-s", "BULK_REMOTE_TIME=1")
    assert said.status == 0, said.log
    assert len(origin.requests) == asked
    # A file that is hashed again gets a further line.
    assert (shell.folder / "then/.bulkspider/ledger.jsonl").read_text().splitlines() == [ledger]
