"""The library of wrong answers: behaviours for `faulty.py`, each named after what is wrong.

A letter and number such as A4 names a fault in the tests: A ranges and resume, B framing, C status and pace, D time. The functions return behaviours and combine: `in_turn(cut_after(9_000), on_resume(short_206(500)))`.
Where `times` is counted, it counts all requests for the path, HEAD included.

Some faults are the server's own: a refused port is `origin.down()` (C28), a connection that ends before or in the TLS
handshake is `at_connect` (C28, D44), an expired certificate is `tls="expired"` (D44), a suspended peer (D40) is
`stall_after`. HTTP/2 (D43) and hosts with several addresses (D39) are beyond this server; robots.txt (C35) is a path.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Literal

import crc32c

from support.faulty import LAST_MODIFIED, Behaviour, Ending, Exchange, Reply, correct, good

# --- Combining behaviours ---------------------------------------------------------------------------------------------


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """The first request for the path gets the first behaviour, and so on; the last one stays."""
    return lambda exchange: behaviours[min(exchange.attempt, len(behaviours) - 1)](exchange)


def first(times: int | None, behaviour: Behaviour, then: Behaviour = good) -> Behaviour:
    """`behaviour` for the first `times` requests for the path (None: for all), `then` for the others."""
    return lambda exchange: (behaviour if times is None or exchange.attempt < times else then)(exchange)


def when(asked: Callable[[Exchange], bool], behaviour: Behaviour, otherwise: Behaviour = good) -> Behaviour:
    """`behaviour` for the requests of which `asked` is true."""
    return lambda exchange: (behaviour if asked(exchange) else otherwise)(exchange)


def on_resume(behaviour: Behaviour, otherwise: Behaviour = good) -> Behaviour:
    """`behaviour` for requests of a range that does not begin at 0."""
    return when(lambda exchange: exchange.range is not None and exchange.range[0] != 0, behaviour, otherwise)


def as_if(**changes: object) -> Behaviour:
    """Good, but the resource has other attributes, e.g. `as_if(etag=None)`."""
    return lambda exchange: good(exchange, replace(exchange.resource, **changes))  # type: ignore[arg-type]


def altered(edit: Callable[[Exchange, Reply], None], *statuses: int) -> Behaviour:
    """Good, but `edit` changes the correct reply when its status is one of `statuses` (none given: always)."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        if not statuses or reply.status in statuses:
            edit(exchange, reply)
        exchange.answer(reply)

    return behaviour


# --- A: ranges and resume ---------------------------------------------------------------------------------------------


def weak_date() -> Behaviour:
    """A1: no ETag, and Last-Modified is the Date itself, hence no strong validator (RFC 9110 §8.8.2.2)."""
    return as_if(etag=None, last_modified=LAST_MODIFIED, date=LAST_MODIFIED)


def no_validators() -> Behaviour:
    """A11, A14: neither ETag nor Last-Modified."""
    return as_if(etag=None, last_modified=None)


def content_range(value: str) -> Behaviour:
    """A2: a 206 with this Content-Range; `{first}`, `{last}`, `{size}` are filled in, e.g. `bytes {first}-{last}/*`."""

    def edit(_: Exchange, reply: Reply) -> None:
        size = len(reply.resource.body)
        reply.headers["Content-Range"] = value.format(first=reply.first, last=reply.last, size=size)

    return altered(edit, 206)


def starts_early(by: int) -> Behaviour:
    """A2: an honest 206 that begins `by` bytes before what was asked."""
    return altered(lambda _, reply: reply.show(max(0, reply.first - by), reply.last), 206)


def starts_late(by: int) -> Behaviour:
    """A2: an honest 206 that begins `by` bytes after what was asked."""
    return altered(lambda _, reply: reply.show(min(reply.last, reply.first + by), reply.last), 206)


def whole_body_as_206(honest: bool = False) -> Behaviour:
    """A2: the whole body with status 206; its Content-Range says so (honest) or claims the range that was asked."""

    def edit(_: Exchange, reply: Reply) -> None:
        claimed = reply.headers["Content-Range"]
        reply.show(0, len(reply.resource.body) - 1)
        if not honest:
            reply.headers["Content-Range"] = claimed

    return altered(edit, 206)


def wrong_bytes_as_206(body: bytes) -> Behaviour:
    """A3, A14: right headers and ETag, but the bytes are of another version."""

    def edit(_: Exchange, reply: Reply) -> None:
        reply.body = memoryview(body)[reply.first : reply.last + 1]

    return altered(edit, 206)


def changes_after(
    requests: int,
    new_body: bytes,
    same_etag: bool = False,
    same_date: bool = False,
    honour_if_range: bool = True,
    etag: str = '"v2"',
) -> Behaviour:
    """A3, A7, A8, A13: after so many requests it is another object (shorter, longer, of the same size)."""

    def behaviour(exchange: Exchange) -> None:
        old = exchange.resource
        new = replace(
            old,
            body=new_body,
            etag=old.etag if same_etag else etag,
            last_modified=old.last_modified if same_date else "Tue, 02 Jan 2024 00:00:00 GMT",
            honour_if_range=honour_if_range,
        )
        good(exchange, old if exchange.attempt < requests else new)

    return behaviour


def short_206(length: int) -> Behaviour:
    """A4: an honest 206 with at most `length` bytes of what was asked."""
    return altered(lambda _, reply: reply.show(reply.first, min(reply.last, reply.first + length - 1)), 206)


def no_content_range() -> Behaviour:
    """A5: a 206 without Content-Range."""

    def edit(_: Exchange, reply: Reply) -> None:
        del reply.headers["Content-Range"]

    return altered(edit, 206)


def multipart_byteranges() -> Behaviour:
    """A5: multipart/byteranges for a single range (RFC 9110 §15.3.7.2 forbids it)."""

    def edit(_: Exchange, reply: Reply) -> None:
        head = f"Content-Type: application/octet-stream\r\nContent-Range: {reply.headers.pop('Content-Range')}"
        body = b"--SEP\r\n" + head.encode() + b"\r\n\r\n" + reply.body + b"\r\n--SEP--\r\n"
        reply.body = memoryview(body)
        reply.headers |= {"Content-Type": "multipart/byteranges; boundary=SEP", "Content-Length": str(len(body))}

    return altered(edit, 206)


def ignores_range(says_nothing: bool = False) -> Behaviour:
    """A6: 200 and the whole body whatever is asked, although it says (or not) that it accepts ranges."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange, ignore_range=True)
        if says_nothing:
            del reply.headers["Accept-Ranges"]
        exchange.answer(reply)

    return behaviour


def slice_as_200() -> Behaviour:
    """A6: the asked slice with its Content-Range, but with status 200."""

    def edit(_: Exchange, reply: Reply) -> None:
        reply.status = 200

    return altered(edit, 206)


def range_416(total: int | None = None) -> Behaviour:
    """A7, A8: 416 to every range, with `Content-Range: bytes */total` or without; with a body that is no file."""

    claim = {} if total is None else {"Content-Range": f"bytes */{total}"}
    return when(lambda exchange: exchange.range is not None, status(416, claim, page("416 Range Not Satisfiable")))


def weak_etag() -> Behaviour:
    """A10: a weak ETag, which never holds in If-Range."""
    return as_if(etag='W/"v1"')


def etag_per_request(nodes: int | None = None, honour_if_range: bool = True) -> Behaviour:
    """A11: another ETag with every request, or one for each of `nodes` servers that take turns; the same bytes."""

    def behaviour(exchange: Exchange) -> None:
        node = exchange.attempt % nodes if nodes else exchange.attempt
        good(exchange, replace(exchange.resource, etag=f'"node-{node}"', honour_if_range=honour_if_range))

    return behaviour


def if_range_always_200(only_etag: bool = False) -> Behaviour:
    """A11: any If-Range (or any with an ETag) is answered with 200 and everything, although nothing changed."""

    def behaviour(exchange: Exchange) -> None:
        condition = exchange.headers.get("if-range", "")
        exchange.answer(correct(exchange, ignore_range='"' in condition if only_etag else bool(condition)))

    return behaviour


def total_disagrees(by: int = 1) -> Behaviour:
    """A13: Content-Range names a total that is not the length which the 200 had."""

    def edit(_: Exchange, reply: Reply) -> None:
        total = len(reply.resource.body) + by
        reply.headers["Content-Range"] = f"bytes {reply.first}-{reply.last}/{total}"

    return altered(edit, 206)


def length_disagrees(by: int) -> Behaviour:
    """A13, B16, B19: a 206 whose Content-Length is not the length of its Content-Range; so many bytes are sent."""

    def edit(_: Exchange, reply: Reply) -> None:
        body = bytes(reply.body)[: len(reply.body) + by] + b"x" * max(0, by)
        reply.body = memoryview(body)
        reply.headers["Content-Length"] = str(len(body))

    return altered(edit, 206)


def accept_ranges_none() -> Behaviour:
    """A15: says `Accept-Ranges: none` and means it."""
    return as_if(accept_ranges=False)


# --- B: framing and truncation ----------------------------------------------------------------------------------------


def cut_after(length: int, how: Ending = "close", times: int | None = None) -> Behaviour:
    """B16, D41: promises all and ends the connection after `length` bytes of an answer; the first `times` requests."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:length])
        if len(reply.body) > length:
            exchange.end(how)

    return first(times, behaviour)


def dies_every(length: int, how: Ending = "reset") -> Behaviour:
    """C28: every connection dies after `length` bytes of body; with progress it must end well."""
    return cut_after(length, how)


def chunked_answer(size: int = 16_384, digest: Literal["right", "wrong"] | None = None) -> Behaviour:
    """B17, B26: correct, but chunked, so without a length; optionally with Repr-Digest as a trailer."""

    def behaviour(exchange: Exchange) -> None:
        reply = _unmeasured(correct(exchange))
        trailers = [] if digest is None else [("Repr-Digest", digests(exchange.body, digest == "right")["Repr-Digest"])]
        exchange.promise(reply)
        exchange.chunked(reply.body, size=size, trailers=trailers)

    return behaviour


def chunked_unfinished(length: int | None = None, how: Ending = "close", times: int | None = None) -> Behaviour:
    """B17: chunked, ends after `length` bytes (None: all of them) without the last chunk."""

    def behaviour(exchange: Exchange) -> None:
        reply = _unmeasured(correct(exchange))
        exchange.promise(reply)
        exchange.chunked(reply.body[:length], finish=False)
        exchange.end(how)

    return first(times, behaviour)


def bad_chunk_size(length: int, times: int | None = None) -> Behaviour:
    """B17: chunked, and after `length` bytes a chunk size that is no number."""

    def behaviour(exchange: Exchange) -> None:
        reply = _unmeasured(correct(exchange))
        exchange.promise(reply)
        exchange.chunked(reply.body[:length], finish=False)
        exchange.send(b"nonsense\r\nmore nonsense\r\n")
        exchange.close()

    return first(times, behaviour)


def close_delimited(notify: bool = True, length: int | None = None, provable: bool = True) -> Behaviour:
    """B18: no length, no chunks, the end of the connection is the end of the body (after `length` bytes, if given).

    notify: over TLS with close_notify or without. provable=False: HEAD tells no length and Range is ignored, too.
    """

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange, ignore_range=not provable)
        if not provable:
            del reply.headers["Accept-Ranges"]
        if (exchange.method == "HEAD" and provable) or reply.status == 416:
            exchange.answer(reply)
            return
        del reply.headers["Content-Length"]
        reply.headers["Connection"] = "close"
        exchange.promise(reply)
        exchange.send(reply.body[:length])
        exchange.end("close" if notify else "close_without_notify")

    return behaviour


def extra_bytes(count: int) -> Behaviour:
    """B19: `count` bytes more than promised, then the connection is closed."""

    def behaviour(exchange: Exchange) -> None:
        good(exchange)
        if exchange.method != "HEAD":
            exchange.send(b"x" * count)
            exchange.close()

    return behaviour


def http10(length: bool = True) -> Behaviour:
    """B20: an HTTP/1.0 server: no ranges, no keep-alive, no validators; with or without Content-Length."""

    def behaviour(exchange: Exchange) -> None:
        exchange.send_status(200, version="HTTP/1.0")
        if length:
            exchange.header("Content-Length", len(exchange.body))
        exchange.end_headers()
        exchange.send(exchange.body)

    return behaviour


def gzip_encoded(only_if_accepted: bool = False) -> Behaviour:
    """B21: Content-Encoding: gzip, also when identity was asked; ranges, ETag and length are of the encoded bytes.

    only_if_accepted: as CloudFront: encodes for clients that accept gzip, and then ignores Range.
    """

    def behaviour(exchange: Exchange) -> None:
        encoded = replace(
            exchange.resource,
            body=gzip.compress(exchange.body, mtime=0),
            headers=(*exchange.resource.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")),
        )
        exchange.answer(correct(exchange, encoded, ignore_range=only_if_accepted))

    if not only_if_accepted:
        return behaviour
    return when(lambda exchange: "gzip" in exchange.headers.get("accept-encoding", ""), behaviour)


def te_and_content_range(shift: int = 0) -> Behaviour:
    """B22: a chunked 206 with Content-Range, which begins `shift` bytes late; to be checked as any other."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        if reply.status == 206:
            reply.show(reply.first + shift, reply.last)
        exchange.promise(_unmeasured(reply))
        exchange.chunked(reply.body)

    return behaviour


def html_instead(code: int = 200, times: int | None = None) -> Behaviour:
    """B23: a login page with status 200 where the file should be."""
    return status(code, {}, page("Please log in"), times)


def small_instead(body: bytes = b"ok\n") -> Behaviour:
    """B23: a few bytes of the right type where gigabytes were expected."""
    return as_if(body=body)


def empty_200(times: int | None = None) -> Behaviour:
    """B24: 200 with Content-Length 0."""
    return first(times, as_if(body=b"", accept_ranges=False))


def informational(*codes: int) -> Behaviour:
    """B25: 1xx answers before the good one."""

    def behaviour(exchange: Exchange) -> None:
        for code in codes or (100, 102, 103):
            exchange.send_status(code)
            exchange.header("Link", "</style.css>; rel=preload")
            exchange.end_headers()
        good(exchange)

    return behaviour


def status(
    code: int, headers: Mapping[str, str] | None = None, body: bytes | None = None, times: int | None = None
) -> Behaviour:
    """B25, C27-C34: this status with an HTML page (or `body`) that is no file; the first `times` requests."""

    def behaviour(exchange: Exchange) -> None:
        text = page(f"error {code}") if body is None else body
        exchange.send_status(code)
        for name, value in (headers or {}).items():
            exchange.header(name, value)
        if code in (204, 205, 304):  # RFC 9110 §6.4.1: no content
            text = b""
        if code not in (204, 304):
            exchange.header("Content-Type", "text/html")
            exchange.header("Content-Length", len(text))
        exchange.end_headers()
        exchange.send(text)

    return first(times, behaviour)


DIGEST_HEADERS = ("Repr-Digest", "Content-Digest", "Digest", "Content-MD5", "x-goog-hash")


def digest_headers(*names: str, right: bool = False) -> Behaviour:
    """B26: these digest headers (default all), of another body unless `right`.

    Content-MD5 and Content-Digest are of the bytes of this answer, the others of the whole file (RFC 9530 §2, §3).
    """

    def edit(_: Exchange, reply: Reply) -> None:
        whole, sent = digests(reply.resource.body, right), digests(bytes(reply.body), right)
        of_message = ("Content-Digest", "Content-MD5")
        reply.headers |= {name: (sent if name in of_message else whole)[name] for name in names or DIGEST_HEADERS}

    return altered(edit, 200, 206)


def wrong_digest_headers(*names: str) -> Behaviour:
    """B26: the same, always wrong."""
    return digest_headers(*names, right=False)


# --- C: status and pace -----------------------------------------------------------------------------------------------


def busy(code: int = 503, retry_after: int | str | None = 1, times: int | None = 1, as_date: bool = False) -> Behaviour:
    """C27: 429 or 503 with Retry-After in seconds or as a date."""

    def behaviour(exchange: Exchange) -> None:
        asked = retry_after
        if as_date and isinstance(asked, int):
            asked = formatdate(time.time() + asked, usegmt=True)
        status(code, {} if asked is None else {"Retry-After": str(asked)})(exchange)

    return first(times, behaviour)


def valid_while(valid: Callable[[Exchange], bool], code: int = 403, then: Behaviour = good) -> Behaviour:
    """C29: an expired link: `code` unless `valid`, which may look at the query, a header, the number of the attempt."""
    return when(valid, then, status(code))


def needs_header(name: str, value: str, code: int = 401) -> Behaviour:
    """C29, C32: good only for requests with this header."""
    return valid_while(lambda exchange: exchange.headers.get(name.lower()) == value, code)


def redirect_to(
    target: str | Sequence[str], code: int = 302, headers: Mapping[str, str] | None = None, times: int | None = None
) -> Behaviour:
    """A12, C31-C33: a redirect; of several targets each request gets the next one, the last one stays."""

    def behaviour(exchange: Exchange) -> None:
        chosen = target if isinstance(target, str) else target[min(exchange.attempt, len(target) - 1)]
        status(code, {"Location": chosen, **(headers or {})})(exchange)

    return first(times, behaviour)


def redirect_loop(fresh: bool = False, code: int = 302) -> Behaviour:
    """C31: a redirect to itself; fresh: each time to a URL never seen, without end."""

    def behaviour(exchange: Exchange) -> None:
        query = f"?hop={exchange.attempt + 1}" if fresh else ""
        status(code, {"Location": exchange.path + query})(exchange)

    return behaviour


def page(text: str) -> bytes:
    """An HTML page."""
    return f"<!DOCTYPE html><html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>\n".encode()


# --- D: time and connections ------------------------------------------------------------------------------------------


def stall_after(length: int, until: threading.Event | None = None, times: int | None = None) -> Behaviour:
    """D36, D40: silence after `length` bytes of body; with an event, the rest once it is set."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:length])
        exchange.stall(until)
        exchange.send(reply.body[length:])

    return first(times, behaviour)


def silent(times: int | None = None) -> Behaviour:
    """D37: takes the request and never answers."""
    return first(times, lambda exchange: exchange.stall())


def slow_headers(rate: float = 20, times: int | None = None) -> Behaviour:
    """D37: headers without end, `rate` bytes a second."""

    def behaviour(exchange: Exchange) -> None:
        exchange.send_slowly(b"HTTP/1.1 200 OK\r\n", rate)
        while True:
            exchange.send_slowly(b"X-Still-Here: yes\r\n", rate)

    return first(times, behaviour)


def trickle(rate: float, after: int = 0, times: int | None = None) -> Behaviour:
    """D36, D38: correct, but `rate` bytes per second, once the first `after` bytes were sent at full speed."""

    def behaviour(exchange: Exchange) -> None:
        reply = correct(exchange)
        exchange.promise(reply)
        exchange.send(reply.body[:after])
        exchange.send_slowly(reply.body[after:], rate)

    return first(times, behaviour)


def garbage_status_line(times: int | None = None) -> Behaviour:
    """D41: bytes that are no HTTP."""

    def behaviour(exchange: Exchange) -> None:
        exchange.send(b"\x15\x03\x01 what is this?\r\n\r\n")
        exchange.close()

    return first(times, behaviour)


def cut_in_header(how: Ending = "close", times: int | None = None) -> Behaviour:
    """D41: the connection ends in the middle of a header (RFC 9112 §8)."""

    def behaviour(exchange: Exchange) -> None:
        exchange.send_status(200)
        exchange.header("Content-Type", "application/octet-stream")
        exchange.send(b"Content-Len")
        exchange.end(how)

    return first(times, behaviour)


def accept_then_close(how: Ending = "close", times: int | None = None) -> Behaviour:
    """C28: takes the request and ends the connection without a byte."""
    return first(times, lambda exchange: exchange.end(how))


def closes_after_answer(how: Ending = "close") -> Behaviour:
    """D42: a good answer that promises keep-alive, and the connection ends right after it."""

    def behaviour(exchange: Exchange) -> None:
        good(exchange)
        exchange.end(how)

    return behaviour


def drops_reused_connection(how: Ending = "reset") -> Behaviour:
    """D42: every request but the first of a connection ends it without an answer."""
    return when(lambda exchange: exchange.on_connection > 0, accept_then_close(how))


# --- Small things the above needs -------------------------------------------------------------------------------------


def digests(body: bytes, right: bool = True) -> dict[str, str]:
    """The values of the digest headers for `body`, or for another body."""
    shown = body if right else body + b"!"
    sha256 = _base64(hashlib.sha256(shown).digest())
    md5 = _base64(hashlib.md5(shown, usedforsecurity=False).digest())
    return {
        "Repr-Digest": f"sha-256=:{sha256}:",
        "Content-Digest": f"sha-256=:{sha256}:",
        "Digest": f"SHA-256={sha256}",
        "Content-MD5": md5,
        "x-goog-hash": f"crc32c={_base64(crc32c.crc32c(shown).to_bytes(4, 'big'))},md5={md5}",
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unmeasured(reply: Reply) -> Reply:
    """The reply as one of chunks: without Content-Length."""
    reply.headers.pop("Content-Length", None)
    reply.headers["Transfer-Encoding"] = "chunked"
    return reply
