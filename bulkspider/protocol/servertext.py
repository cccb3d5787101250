"""The text of a refusal: the beginning of an error's body, as one line that is safe to show, and its meaning where the
words are known.

Most refusals give their reason in their body ("quota exceeded until 14:00"). Here a page loses its tags and every text
its control characters; the function `hide` of the caller takes secrets out before the text is cut. Pure.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from http import HTTPStatus

from bulkspider.errors import BulkError, Meaning
from bulkspider.regex import regex

# Characters of the text that are shown.
SHOWN_CHARACTERS = 200
# Bytes that are read for them: the head of a page may be long.
READ_BYTES = 8 * 1024
_STATUSES = frozenset(HTTPStatus)

_NOT_SHOWN = regex(r"<!--.*?(?:-->|\Z)|<(script|style|svg)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_HEAD = regex(r"<head\b.*?</head\s*>", re.IGNORECASE | re.DOTALL)
_TAG = regex(r"</?[a-z!?][^>]*(?:>|\Z)", re.IGNORECASE)
# Fields that repeat what a request was signed with, as S3 does in <SignatureProvided>, or hold what must not be shown.
_SECRET_NAME = (
    r"[\w:.-]*(?:signature|signed|tosign|canonicalrequest|token|secret|passw|credential|cookie|api_?key|accesskey)"
    r"[\w:.-]*"
)
_XML_SECRET = regex(rf"<({_SECRET_NAME})>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_JSON_SECRET = regex(rf'("{_SECRET_NAME}"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\Z)', re.IGNORECASE)


def excerpt(body: bytes, content_type: str | None, hide: Callable[[str], str] = str) -> str | None:
    """The first SHOWN_CHARACTERS characters of the text in `body`; None when it holds none.

    content_type: as received; its charset counts. hide: takes secrets out, before anything is cut off.
    """
    text = _decoded(body, content_type or "")
    if text is None:
        return None
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        text = _XML_SECRET.sub(r"\1 *** ", text)
        text = _NOT_SHOWN.sub(" ", text)
        # Without the head, because its title is mostly repeated in the body; with it if the body has no text.
        text = html.unescape(_TAG.sub(" ", _HEAD.sub(" ", text))).strip() or html.unescape(_TAG.sub(" ", text))
    elif text.startswith(("{", "[")):
        text = _JSON_SECRET.sub(r'\1"***"', text)
        for escaped, character in (("\\u0026", "&"), ("\\u003d", "="), ("\\u003D", "="), ("\\/", "/")):
            text = text.replace(escaped, character)
    text = " ".join(_printable(hide(text)).split())
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 1] + "…"
    return text or None


def quote(error: BulkError, said: str | None) -> None:
    """Stores what the server said in the error, and adds it to the message unless it only repeats the status."""
    error.server_said = said
    if said and not _repeats(said, error.http_status or 0):
        error.message = f"{error.message}; the server said: {said}"


# Statuses that may mean that a link has expired; without a fresh link they are final.
MAY_HAVE_EXPIRED = frozenset({401, 403, 410})
# Words of S3, Google Cloud Storage, Azure and CloudFront, of their errors' codes and sentences.
_EXPIRED = regex(
    r"expiredtoken|requestexpired|tokenexpired|request has expired|specified time frame"
    r"|(?:token|signature|link|url|policy)\W+(?:\w+\W+){0,3}expired"
)
_OWN = regex(
    r"accessdenied|access denied|nosuchkey|nosuchbucket|signaturedoesnotmatch|invalidaccesskeyid|allaccessdisabled"
    r"|authorizationheadermalformed|invalidtoken|accountproblem|authenticationfailed"
)
# nginx, Apache, and programs in Go.
_WANTS_TLS = regex(
    r"plain http request was sent to https port|speaking plain http to an ssl-enabled server port"
    r"|client sent an http request to an https server"
)
_BUSY = regex(
    r"slow ?down|too many (?:requests|connections|users|downloads)|rate.?limit|throttl|requestlimitexceeded|serverbusy"
    r"|bandwidth limit|exceed\w* (?:the |your )?(?:rate|limit|quota)"
)
# Fields of firewalls before a site (AWS WAF, Cloudflare): only a browser can answer what they ask.
_CHALLENGES = {"x-amzn-waf-action": ("challenge", "captcha"), "cf-mitigated": ("challenge",)}


def meaning_of(status: int, fields: Mapping[str, str], said: str | None) -> Meaning:
    """What a refusal means beyond its status. fields: of the answer's head, lower-case names. said: its excerpt."""
    if any(fields.get(name, "").strip().lower() in values for name, values in _CHALLENGES.items()):
        return Meaning.CHALLENGE
    words = (said or "").lower()
    if status == 400 and _WANTS_TLS.search(words):
        return Meaning.TLS
    if status in (400, 401, 403) and _EXPIRED.search(words):
        return Meaning.EXPIRED
    if status >= 400 and _BUSY.search(words):
        return Meaning.BUSY
    if status == 403 and _OWN.search(words):
        return Meaning.OWN
    return Meaning.UNSAID


def _repeats(said: str, status: int) -> bool:
    """True for texts such as: 404; Not Found; 404 Not Found nginx/1.24.0; Error 404."""
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    known = {str(status), "error", "http", "status", "code", *phrase.lower().split()}
    return all(word.strip(".:!()") in known or word.startswith("nginx") for word in said.lower().split())


def _decoded(body: bytes, content_type: str) -> str | None:
    """None when it is no text: it has a NUL, or more than a few characters cannot be decoded."""
    if b"\0" in body:
        return None
    charset = re.search(r"charset\s*=\s*\"?([\w.:-]+)", content_type, re.I)
    try:
        text = body.decode(charset[1] if charset else "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    except UnicodeError:
        return None
    return None if text.count("\ufffd") > len(text) // 10 + 1 else text


def _printable(text: str) -> str:
    """Without control and format characters (ESC, bidirectional marks, zero width) and lone surrogates, which could
    change how a terminal or a page shows the text around them."""
    return "".join(" " if c.isspace() or unicodedata.category(c)[0] in "CZ" else c for c in text)
