"""Index pages as the servers of the world make them, and a tree of files behind them.

Each function writes the page of a folder in the form of one server; the forms were taken from what Apache 2.4, nginx
1.22, lighttpd 1.4 and Caddy 2.6 themselves answered, with their ways to escape names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape as escape_xml

from support.faulty import Behaviour, Exchange, good

# (path of the folder, names of its folders, names of its files) -> the page
Form = Callable[[str, list[str], list[str]], str]


def _apache_href(name: str) -> str:
    href = re.sub("%..", lambda found: found[0].lower(), quote(name, safe="/!$&'()*+,;=:@~"))
    return escape(("./" if ":" in href else "") + href, quote=False)


def apache(path: str, folders: list[str], files: list[str]) -> str:
    """`IndexOptions FancyIndexing`, the default of most distributions."""
    parent = path.rstrip("/").rpartition("/")[0] + "/"
    rows = "".join(
        f'      <a href="{_apache_href(name)}">{escape(name)[:20]}..&gt;</a>   2026-11-28 19:44  1.2M  \n'
        for name in [*(f"{folder}/" for folder in folders), *files]
    )
    return f"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">
<html>
 <head>
  <title>Index of {escape(path)}</title>
 </head>
 <body>
<h1>Index of {escape(path)}</h1>
<pre>      <a href="?C=N;O=D">Name</a>                    <a href="?C=M;O=A">Last modified</a>      <a href="?C=S;O=A">Size</a>  <a href="?C=D;O=A">Description</a><hr>      <a href="{parent}">Parent Directory</a>                             -
{rows}<hr></pre>
</body></html>
"""


def apache_table(path: str, folders: list[str], files: list[str]) -> str:
    """`IndexOptions FancyIndexing HTMLTable IconsAreLinks XHTML`."""
    names = [*(f"{folder}/" for folder in folders), *files]
    rows = "".join(
        f'<tr><td valign="top"><a href="{_apache_href(name)}"><img src="/icons/unknown.gif" alt="[   ]" /></a></td>'
        f'<td><a href="{_apache_href(name)}">{escape(name)}</a>   </td><td align="right">2026-11-28 19:44  </td>'
        '<td align="right">1.2M</td><td>&nbsp;</td></tr>\n'
        for name in names
    )
    return f"""<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
 <head>
  <title>Index of {escape(path)}</title>
 </head>
 <body>
<h1>Index of {escape(path)}</h1>
  <table>
   <tr><th valign="top">&nbsp;</th><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td valign="top"><a href="/">&nbsp;</a></td><td><a href="/">Parent Directory</a>       </td></tr>
{rows}</table>
<address>Apache/2.4.71 (Debian) Server at <a href="mailto:root@localhost">localhost</a> Port 80</address>
</body></html>
"""


def nginx(path: str, folders: list[str], files: list[str]) -> str:
    """`autoindex on`."""
    rows = "".join(
        f'<a href="{quote(name)}">{escape(name)}</a>                    28-Nov-2026 19:44                   2\n'
        for name in [*(f"{folder}/" for folder in folders), *files]
    )
    return f"""<html>
<head><title>Index of {escape(path)}</title></head>
<body>
<h1>Index of {escape(path)}</h1><hr><pre><a href="../">../</a>
{rows}</pre><hr></body>
</html>
"""


def lighttpd(path: str, folders: list[str], files: list[str]) -> str:
    """mod_dirlisting."""
    rows = "".join(
        f'<tr class="d"><td class="n"><a href="{quote(name)}/">{escape(name)}</a>/</td><td class="m">2026-Nov-28 19:44:01'
        '</td><td class="s">- &nbsp;</td><td class="t">Directory</td></tr>\n'
        for name in folders
    ) + "".join(
        f'<tr><td class="n"><a href="{quote(name)}">{escape(name)}</a></td><td class="m">2026-Nov-28 19:44:01</td>'
        '<td class="s">0.1K</td><td class="t">application/octet-stream</td></tr>\n'
        for name in files
    )
    return f"""<!DOCTYPE html>
<html>
<head>
<title>Index of {escape(path)}</title>
</head>
<body>
<h2>Index of {escape(path)}</h2>
<div class="list">
<table summary="Directory Listing" cellpadding="0" cellspacing="0">
<thead><tr><th class="n">Name</th><th class="m">Last Modified</th><th class="s">Size</th></tr></thead>
<tbody>
<tr class="d"><td class="n"><a href="../">..</a>/</td><td class="m">&nbsp;</td><td class="s">- &nbsp;</td></tr>
{rows}</tbody>
</table>
</div>
<div class="foot">lighttpd/1.4.69</div>
<script type="text/javascript">
// <!--
var dirlisting = '<a href="not/a/link">';
// -->
</script>
</body>
</html>
"""


def caddy(path: str, folders: list[str], files: list[str]) -> str:
    """`file_server browse`."""
    rows = "".join(
        f"""
                    <tr class="file">
                        <td></td>
                        <td>
                            <a href="./{escape(quote(name, safe="/!$&'()*+,;=:@~"))}">
                                <svg width="1.5em" height="1em" version="1.1" viewBox="0 0 265 323">
                                    <use xlink:href="#file"></use>
                                </svg>
                                <span class="name">{escape(name)}</span>
                            </a>
                        </td>
                        <td data-order="2">2 B</td>
                    </tr>"""
        for name in [*(f"{folder}/" for folder in folders), *files]
    )
    return f"""<!DOCTYPE html>
<html>
<head><title>{escape(path)}</title><meta charset="utf-8"></head>
<body onload='initFilter()'>
    <header>
        <h1>
            <a href="/">/</a><a href="">{escape(path)}</a>
        </h1>
    </header>
    <table aria-describedby="summary">
        <thead><tr><th>
            <a href="?sort=namedirfirst&order=desc" class="icon"></a>
            <a href="?sort=name&order=asc">Name</a>
        </th></tr></thead>
        <tbody>
            <tr><td></td><td><a href=".."><span class="goup">Go up</span></a></td></tr>{rows}
        </tbody>
    </table>
    <footer>Served with <a rel="noopener noreferrer" href="https://caddyserver.com">Caddy</a></footer>
</body>
</html>
"""


FORMS: Mapping[str, Form] = {
    "apache": apache,
    "apache-table": apache_table,
    "nginx": nginx,
    "lighttpd": lighttpd,
    "caddy": caddy,
}


def serve(text: str | bytes, content_type: str = "text/html; charset=utf-8") -> Behaviour:
    """A page."""

    def behaviour(exchange: Exchange) -> None:
        body = text.encode() if isinstance(text, str) else text
        exchange.send_status(200)
        exchange.header("Content-Type", content_type)
        exchange.header("Content-Length", len(body))
        exchange.end_headers()
        exchange.send(body)

    return behaviour


def tree(form: Form, files: Mapping[str, bytes], root: str = "") -> dict[str, Behaviour | tuple[Behaviour, bytes]]:
    """What a server answers for these files (path -> bytes) and all their folders, which have their pages at '/'."""
    table: dict[str, Behaviour | tuple[Behaviour, bytes]] = {}
    folders: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
    for path in files:
        above = ""
        *parents, name = path.split("/")
        for parent in parents:
            folders.setdefault(f"{above}{parent}/", ([], []))
            if parent not in folders[above][0]:
                folders[above][0].append(parent)
            above += f"{parent}/"
        folders[above][1].append(name)
        table[f"{root}{path}"] = (good, files[path])
    for path, (inner, names) in folders.items():
        table[f"{root}{path}"] = serve(form(f"/{root}{path}", inner, names))
    return table


def bucket(objects: Mapping[str, bytes], *, version: int, name: str = "", page: int = 2) -> Behaviour:
    """ListObjects of S3, version 1 or 2 whatever was asked, `page` keys at a time."""

    def behaviour(exchange: Exchange) -> None:
        asked = {key: values[0] for key, values in parse_qs(exchange.query, keep_blank_values=True).items()}
        prefix = asked.get("prefix", "")
        after = asked.get("continuation-token", asked.get("marker", "")).removeprefix("token+/ ")
        keys = sorted(key for key in objects if key.startswith(prefix) and key > after)
        more = len(keys) > page
        rows = "".join(
            f"<Contents><Key>{escape_xml(key)}</Key><LastModified>2026-11-28T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;0123&quot;</ETag><Size>{len(objects[key])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys[:page]
        )
        token = ""
        if more and version == 2:
            token = f"<NextContinuationToken>token+/ {escape_xml(keys[page - 1])}</NextContinuationToken>"
        text = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{name or "data"}</Name>
<Prefix>{escape_xml(prefix)}</Prefix><KeyCount>{min(page, len(keys))}</KeyCount><MaxKeys>{page}</MaxKeys>
<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"""
        serve(text, "application/xml")(exchange)

    return behaviour
