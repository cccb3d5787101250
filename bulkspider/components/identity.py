"""Identity: which file a request with `meta["bulk"]` is for, also after retries and redirects.

A request that is tried again or redirected comes back as a new object, but is still for the URL, method and body of the
first one. A new request that got the meta of another one (`Request(url, meta=response.meta)`) is for its own URL, and
the result and the redirects in that meta do not belong to it. Scrapy's meta looks the same in both cases, so a note of
ours in `meta["bulk"]` distinguishes them. It is plain data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bulkspider.components.meta import NOTE, RESULT, result_of
from bulkspider.dispatch.places import OF_FILES
from bulkspider.entries.names import EntryError
from bulkspider.entries.urls import slot_of
from bulkspider.items import FINISHED, BulkItem

if TYPE_CHECKING:
    from scrapy import Request

# The meta keys of scrapy-playwright, scrapy-impersonate, scrapy-zyte-api and scrapy-splash, and which values make them
# load the request. An empty dict asks for it without parameters.
OTHERS: dict[str, Callable[[Any], bool]] = {
    "playwright": bool,
    "impersonate": bool,
    "zyte_api": lambda value: bool(value) or value == {},
    "zyte_api_automap": lambda value: value is not False,
    "splash": lambda value: True,
}
# With this setting of scrapy-zyte-api all requests but those with `zyte_api_automap` = False are loaded by it.
ALL_BY_ANOTHER = "ZYTE_API_TRANSPARENT_MODE"
# What Scrapy's redirect middleware keeps in meta.
REDIRECTS = ("redirect_urls", "redirect_reasons", "redirect_times")


def is_bare(request: Request) -> bool:
    """A request of the project's own spider with `meta["bulk"]`: neither of the spider `bulk`, nor of
    BulkFilesPipeline."""
    bulk = request.meta.get("bulk")
    return isinstance(bulk, dict) and bulk.keys().isdisjoint(("entry", "probe"))


def identify(request: Request) -> None:
    """Notes what a bare request is for, and removes what its meta says of another one. May be called again."""
    if not is_bare(request):
        return
    bulk = request.meta["bulk"]
    now = [request.url, asked_of(request)]
    note: Any = bulk.get(NOTE)
    # Always a new dict: the request that the meta was copied from keeps its own.
    if note and bulk.get(RESULT, {}).get("status") not in FINISHED:
        redirected = note["redirected"] and request.meta.get("redirect_urls", [])[-1:] == note["now"][:1]
        if redirected or note["now"] == now:
            kept = note["redirected"] and not redirected
            request.meta["bulk"] = {**bulk, NOTE: {**note, "now": now, "redirected": kept, "told": False}}
            return
    own = {key: value for key, value in bulk.items() if key not in (NOTE, RESULT)}
    request.meta["bulk"] = {**own, NOTE: {"first": now, "now": now, "redirected": False, "told": False}}
    without_redirects(request.meta)


def choose_slot(request: Request) -> None:
    """Sets the download slot of its host's files, unless the project chose one; a new one after a redirect to another
    host."""
    note: Any = request.meta["bulk"].get(NOTE) or {}
    chosen = request.meta.get("download_slot")
    identify(request)
    if chosen is None or chosen == note.get("slot"):
        request.meta["download_slot"] = request.meta["bulk"][NOTE]["slot"] = OF_FILES + slot_of(request.url)


def is_redirected(request: Request, digests: Mapping[str, str], size: int | None) -> None:
    """Its answer was a redirect: the next request is for the same file, whose hashes and size the redirect stated."""
    request.meta["bulk"][NOTE] |= {"redirected": True, "linked": [dict(digests), size]}


def linked_of(request: Request) -> tuple[dict[str, str], int | None]:
    """The hashes and the size that the redirect to this request stated."""
    digests, size = request.meta["bulk"][NOTE].get("linked", ({}, None))
    return digests, size


def tell(request: Request, item: BulkItem) -> None:
    """Writes the result of its file into its meta."""
    bulk = request.meta["bulk"]
    bulk[RESULT] = result_of(item)
    if NOTE in bulk:
        bulk[NOTE]["told"] = True


def is_told(request: Request) -> bool:
    """Its result is of this exchange; a request that is tried again still carries the result of the one before."""
    return bool(request.meta["bulk"].get(NOTE, {}).get("told"))


def first_of(request: Request) -> tuple[str, str | None]:
    """The URL and `asked_of` of the first request."""
    bulk = request.meta["bulk"]
    url, asked = bulk[NOTE]["first"] if isinstance(bulk, dict) else (request.url, None)
    return url, asked


def without_redirects(meta: dict[str, Any]) -> None:
    """Removes the redirects of another request."""
    for key in REDIRECTS:
        meta.pop(key, None)


def asked_of(request: Request) -> str | None:
    """The SHA-256 of method and body; None for a GET without a body, which its URL identifies."""
    if request.method == "GET" and not request.body:
        return None
    return hashlib.sha256(b"%s\0%s" % (request.method.encode(), request.body)).hexdigest()


def check_request(request: Request) -> None:
    """Raises EntryError where no answer can bring a file (RFC 9110 §9.3.2, §9.3.6), or another handler would load
    it."""
    if request.method in ("HEAD", "CONNECT"):
        raise EntryError(f"{request.method} brings no file", "use GET, or POST with the body that the server expects")
    if keys := keys_of_others(request):
        raise EntryError(
            f'meta["{keys[0]}"] asks another program to load it, which does not stream to the disk',
            f'leave out one of the two, meta["bulk"] or meta["{keys[0]}"]',
        )


def keys_of_others(request: Request) -> list[str]:
    """The keys of its meta that ask for other download handlers."""
    return [key for key, asks in OTHERS.items() if key in request.meta and asks(request.meta[key])]


def go_directly(request: Request) -> bool:
    """In a project that has another program load everything, the file comes from its host. False: somebody said so."""
    if request.meta.get("zyte_api_automap") is False:
        return False
    request.meta["zyte_api_automap"] = False
    if is_bare(request):
        request.meta["bulk"][NOTE]["direct"] = True
    return True


def forget_direct(request: Request) -> None:
    """Its meta may be given to a request for a page, which goes as all pages go."""
    if request.meta["bulk"].get(NOTE, {}).pop("direct", False):
        request.meta.pop("zyte_api_automap", None)


def is_another_request(request: Request, asked: str | None) -> bool:
    """A middleware has changed the GET for a file to a POST or the like, whose answer would be something else.

    asked: of its entry (`asked_of`).
    """
    return asked is None and asked_of(request) is not None
