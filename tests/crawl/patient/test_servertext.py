"""What a server said when it refused: made safe in a table, and told in message, row, summary and dry run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkspider.entries.redaction import hider
from bulkspider.errors import AttemptError
from bulkspider.protocol.servertext import SHOWN_CHARACTERS, excerpt, quote
from support.crawl import Bulk
from support.faults import first, status
from support.faulty import Exchange, FaultyOrigin, good, make_body

QUOTA = b'{"error": "quota exceeded until 14:00"}'


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"", None, None),
        (b" \r\n", "text/plain", None),
        (b"Too many downloads\n", None, "Too many downloads"),
        (QUOTA, "application/json", '{"error": "quota exceeded until 14:00"}'),
        ("höchstens vier".encode(), None, "höchstens vier"),
        ("höchstens vier".encode("latin-1"), 'text/plain; charset="iso-8859-1"', "höchstens vier"),
        (b"caf\xe9 closed", "text/plain; charset=unheard-of", "caf\ufffd closed"),
        (b"\x1f\x8b\x08\x00abc", "text/html", None),
        (bytes(range(128, 256)), None, None),
        (b"a\x1b[31mred\x07\xe2\x80\xae\xe2\x80\x8bb", None, "a [31mred b"),
        (
            (
                b"<html><head><title>t</title><style>p{}</style></head><body><!-- x -->"
                b"<script>go()</script><p>Log&nbsp;in &amp; pay</p></body>"
            ),
            "text/html",
            "Log in & pay",
        ),
        (b"<html><head><title>503 Busy until noon</title></head></html>", "text/html", "503 Busy until noon"),
        (b"<html><head><title>cut", "text/html", "cut"),
        (
            (
                b'<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA123</AWSAccessKeyId>'
                b"<StringToSign>AWS4 s3cr3t</StringToSign><SignatureProvided>deadbeef"
            ),
            "application/xml",
            "SignatureDoesNotMatch AWSAccessKeyId *** StringToSign *** SignatureProvided ***",
        ),
        (b'{"access_token": "abc\\"def", "message": "no"}', None, '{"access_token": "***", "message": "no"}'),
        (
            b"no access to https://h/x?X-Amz-Signature=abcdef&a=1",
            None,
            "no access to https://h/x?X-Amz-Signature=***&a=1",
        ),
        (b"token s3cr3t-of-mine is old; dXNlcjpwYXNzd29yZA==", None, "token *** is old; ***"),
        (b"user:password at h", None, "user:*** at h"),
    ],
)
def test_what_is_shown(body: bytes, content_type: str | None, said: str | None) -> None:
    hide = hider(["Bearer s3cr3t-of-mine", "Basic dXNlcjpwYXNzd29yZA=="], ["https://h/x?a=1"])
    assert excerpt(body, content_type, hide) == said


@given(st.binary(max_size=2000), st.sampled_from([None, "text/html", "text/plain; charset=utf-16", "x; charset=zlib"]))
def test_it_is_one_safe_line_whatever_comes(body: bytes, content_type: str | None) -> None:
    said = excerpt(body, content_type)
    if said is not None:
        assert 0 < len(said) <= SHOWN_CHARACTERS
        assert said.isprintable()


@given(st.text(alphabet='<>ab/!-&;"{}:[] \\', max_size=3000))
def test_no_text_takes_long(text: str) -> None:
    excerpt(text.encode() * 3, None)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("404 Not Found nginx/1.24.0", "no"),
        ("Not Found", "no"),
        ("Error 404", "no"),
        ("the file was moved to tape", "no; the server said: the file was moved to tape"),
        (None, "no"),
    ],
)
def test_a_message_tells_what_is_new(said: str | None, told: str) -> None:
    error = AttemptError("no", code="http_404", http_status=404)
    quote(error, said)
    assert (error.message, error.server_said) == (told, said)


def drips(exchange: Exchange) -> None:
    """A refusal whose reason comes for ever."""
    exchange.send_status(403)
    exchange.header("Content-Length", 1_000_000)
    exchange.end_headers()
    exchange.send(b"licence has run out, ")
    exchange.stall()


def test_what_the_server_said_is_in_message_row_and_summary(bulk: Bulk) -> None:
    body = make_body(50_000)
    echo = b"bad key s3cr3t-key for " + b"x" * 300
    behaviours = {
        "a.bin": good,
        "quota.bin": status(403, body=QUOTA),
        "bad.bin": status(400, body=b"Request has expired"),
        "moved.bin": status(421, body=b"wrong data centre\x1b[2J"),
        "later.bin": status(202, body=b"being staged from tape"),
        "login.bin": status(200, body=b"<html><body>Please log in</body></html>"),
        "drips.bin": drips,
        "huge.bin": status(404, body=b"gone to tape " * 100_000),
        "echo.bin": status(403, body=echo),
        "once.bin": first(1, status(503, body=b"restarting")),
    }
    with FaultyOrigin(behaviours, resource=body) as origin:
        lines = [f"{name} {origin.url(name)}" for name in behaviours]
        bulk.write_list([line + " header:X-Key=s3cr3t-key" * (" " in line and "echo" in line) for line in lines])
        settings = {"BULK_RETRY_TIMES": "1", "BULK_ORIGIN_PATIENCE": "2", "CONCURRENT_REQUESTS_PER_DOMAIN": "2"}
        ended = bulk.run(settings=settings)
        said = {row["name"]: row["server_said"] for row in ended.rows}
        assert said["a.bin"] is None
        assert said["once.bin"] is None, "it went well in the end"
        assert said["quota.bin"] == QUOTA.decode()
        assert said["bad.bin"] == "Request has expired"
        assert said["moved.bin"] == "wrong data centre [2J"
        assert said["later.bin"] == "being staged from tape"
        assert said["login.bin"] == "Please log in"
        assert said["drips.bin"] == "licence has run out,", "it is not waited for"
        assert said["huge.bin"].startswith("gone to tape gone")
        assert len(said["huge.bin"]) == SHOWN_CHARACTERS
        assert said["echo.bin"].startswith("bad key *** for xxx")
        assert "s3cr3t" not in ended.log
        for row in ended.rows:
            if row["server_said"]:
                assert row["server_said"] in row["error"]["message"]
                assert row["server_said"] in ended.log
        assert "the server said: restarting" in ended.log

        # No advice that leads nowhere: this host serves, so credentials are not what lacks.
        cures = [line.partition("what to do: ")[2] for line in ended.log.splitlines() if "what to do: " in line]
        assert sorted(cures) == [
            "correct the URL in the list",
            "log in or renew the link; a name that ends in .html takes pages",
            "run the same again later",
            "run the same again later, when the file was staged",
        ], ended.log


def test_a_host_that_serves_nobody_may_want_credentials(bulk: Bulk) -> None:
    with FaultyOrigin({"a.bin": status(403, body=b"who are you?")}) as origin:
        bulk.write_list({"a.bin": origin.url("a.bin")})
        ended = bulk.run()
        assert "what to do: give credentials, or a fresh link" in ended.log
