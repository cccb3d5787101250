"""The listing of a bucket: what S3 and compatible services answer instead of an index page.

Both versions of ListObjects are read (Amazon S3 API Reference): the second goes on with a token, the first after the
last key. A listing has the keys and sizes of up to a thousand objects. Its ETag is not used as an MD5, because it is
none for objects in several parts and encrypted ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from msgspec import Struct
from parsel import Selector

# Parameters of a listing's query: the objects that are meant, and the page. The others divide the listing into folders.
_QUESTION = ("list-type", "prefix")
_PAGE = ("continuation-token", "marker")


class Listing(Struct, frozen=True):
    """One page. root: the URL of the bucket, with '/' at its end. prefix: of all keys. objects: (key, size). next_url:
    of the next page, None at the last one."""

    root: str
    prefix: str
    objects: tuple[tuple[str, int], ...]
    next_url: str | None

    def urls(self) -> Iterator[tuple[str, str, int]]:
        """(key, URL, size) of each object; objects that only mark a folder are left out."""
        for key, size in self.objects:
            if not key.endswith("/"):
                # S3 reads '+' in a path as a blank, so it is encoded.
                yield key, self.root + quote(key, safe="/~"), size


def is_listing(body: bytes) -> bool:
    """True when the body begins as a listing does."""
    return b"<ListBucketResult" in body[:1024]


def is_refusal(body: bytes) -> bool:
    """True for an error of S3: no such object, or no access; S3 answers so for the URL of a folder."""
    return body[:1024].lstrip().startswith((b"<?xml", b"<Error>")) and b"<Error>" in body[:1024]


def read_listing(body: bytes, url: str) -> Listing:
    """url: where it came from. Raises ValueError when it is damaged."""
    if b"<!DOCTYPE" in body[:1024] or b"</ListBucketResult>" not in body[-1024:]:
        raise ValueError("the listing of the bucket is damaged or cut off")
    page = Selector(body=body, type="xml")
    page.remove_namespaces()

    def text(name: str) -> str:
        return page.xpath(f"string(/ListBucketResult/{name})").get() or ""

    objects = []
    for row in page.xpath("/ListBucketResult/Contents"):
        key, size = row.xpath("string(Key)").get() or "", row.xpath("string(Size)").get() or ""
        if not key or not size.isdecimal():
            raise ValueError("an object of the bucket has no key or no size")
        objects.append((key, int(size)))
    parts = urlsplit(url)
    # The name of the bucket stands in the path, or in the host.
    first = parts.path.strip("/").partition("/")[0]
    path = f"/{first}/" if first and first == quote(text("Name")) else "/"
    root = f"{parts.scheme}://{parts.netloc}{path}"
    next_url = None
    if text("IsTruncated") == "true":
        if token := text("NextContinuationToken"):
            next_url = _ask(url, {"continuation-token": token})
        else:
            next_url = _ask(url, {"marker": text("NextMarker") or (objects[-1][0] if objects else "")})
        if next_url == url or not objects:
            raise ValueError("the listing of the bucket does not go on")
    return Listing(root, text("Prefix"), tuple(objects), next_url)


def whole_question(url: str) -> str | None:
    """The same query without the parameters that divide the bucket into folders; None when it has none."""
    names = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    return _ask(url, {}) if names - {*_QUESTION, *_PAGE} else None


def listing_below(url: str) -> str:
    """The URL that asks the bucket of a host for all objects below the path of `url`."""
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    query = urlencode({"list-type": "2", "prefix": f"{prefix}/" if prefix else ""}, quote_via=quote)
    return urlunsplit((parts.scheme, parts.netloc, "/", query, ""))


def _ask(url: str, page: dict[str, str]) -> str:
    parts = urlsplit(url)
    asked = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name in _QUESTION]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode([*asked, *page.items()], quote_via=quote), ""))
