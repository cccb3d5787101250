"""URLs: their normal form, their origin, the key that stays the same under a new signature, and how they are shown.

Pure text. The normal form is the one Scrapy's Request makes itself, so the URL of an entry and the URL of its Request
are the same bytes. Two lists of query parameters live here: those that only sign a request (they change with every
fresh link and do not say which object is meant) and those that are secret (they are never shown). The first list is
kept strict, because a parameter left out of `url_key` lets the ledger take another object for the same; the second is
generous, because hiding too much costs nothing. A normal URL goes on into an `Entry` (`entry.py`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

from bulkspider.entries.names import EntryError
from bulkspider.regex import regex

DEFAULT_PORTS = {"http": 80, "https": 443}

# A URL of this form is normal already, as most URLs of a list are. Ports above 59999 take the slower way.
SITE = r"https?://(?:[a-z0-9-]{1,63}\.)*[a-z0-9-]{1,63}(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
SAFE = r"A-Za-z0-9_.~!$&()+;=:@%/-"
PATH = rf"/[{SAFE}]*(?:\?[?{SAFE}]+)?"
_NORMAL = regex(SITE + PATH)

# Of visible ASCII, without user and fragment: its path and its query can be cut out.
_USUAL = regex(r"https?://[A-Za-z0-9.:-]+(/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))?")

# IPv6 addresses that a translator makes of IPv4 ones (RFC 6052 §2.1).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_SCHEME = regex(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_CONTROL = regex(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HOST = regex(r"(?:[A-Za-z0-9_~-]{1,63}\.)*[A-Za-z0-9_~-]{1,63}\.?")
_REDACTED = regex(r"://\*\*\*@|[?&][^=&]*=\*\*\*(?:&|$)")

# Every parameter of these families belongs to a signature:
#   X-Amz-*   AWS Signature Version 4 ("Authenticating Requests: Using Query Parameters", Amazon S3 API reference)
#   X-Goog-*  Google Cloud Storage V4 signing ("Signed URLs")
#   x-oss-*, x-obs-*, x-tos-*, x-cos-*  the same scheme of Alibaba, Huawei, Volcengine and Tencent ("V4 signatures in
#             presigned URLs" of OSS); only these endings, since x-oss-process=… names another object
_FAMILY = regex(
    r"x-(?:amz|goog)-[\w-]+"
    r"|x-(?:oss|obs|tos|cos)-(?:signature(?:-version)?|credential|date|expires|algorithm|signedheaders"
    r"|additional-headers|security-token|access-key-id|policy|content-sha256)",
    re.ASCII,
)
_SIGNATURE = {
    # AWS Signature Version 2 ("Signing and authenticating REST requests") and its look-alikes of GCS V2, OSS V1, OBS
    *("awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "accesskeyid", "signature", "expires", "security-token"),
    # Amazon CloudFront ("Create a signed URL using a canned / custom policy"); Hugging Face links are of this kind
    *("key-pair-id", "policy", "hash-algorithm"),
    # Akamai Auth Token 2.0 and its older names ("EdgeAuth token")
    *("hdnea", "hdnts", "hdntl", "__gda__", "__token__"),
    # Tencent COS ("Request signature")
    *("q-sign-algorithm", "q-ak", "q-sign-time", "q-key-time", "q-header-list", "q-url-param-list", "q-signature"),
    # Alibaba CDN type A ("URL signing"), bunny.net ("Token authentication"), and what many servers call theirs
    *("auth_key", "bcdn_token", "sig", "token", "access_token", "auth_token"),
}
# Azure shared access signatures ("Create an account / a service / a user delegation SAS"). The names are so short that
# they count only beside `sig`.
_AZURE = {
    *("sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "si", "sip", "sdd", "ses", "scid"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "skdutid"),
}
_SECRET = _SIGNATURE | {
    *("pass", "passwd", "password", "pwd", "secret", "client_secret", "credential", "credentials", "auth", "sas"),
    *("authorization", "api_key", "apikey", "api-key", "x-api-key", "private_token", "private-token", "oauth_token"),
    *("id_token", "refresh_token", "jwt", "hmac", "sign", "ticket", "session", "session_id", "sessionid", "sid"),
}

# Names that say who somebody is: NASA's links carry `A-userid=`, those of libraries `email=` or `mailto=`.
_IDENTITY = regex(
    r"(?:[\w.-]*[._-])?(?:user(?:[._-]?(?:id|name))?|login|mail|mailto)|[\w.-]*e[._-]?mail[\w.-]*", re.ASCII
)

# After a scheme, or where a URL without one begins.
_USERINFO = regex(r"(?:(?<=:)|(?<![^\s\"'(<=]))//[^\s/?#]*@")
# The name may follow an encoded '?' or '&' as well: a signed link inside a parameter of another link.
_PARAMETER = regex(
    r"(?:(?<![\w.%-])|(?<=%3F)|(?<=%26))([\w.-]+)"
    r"(?:(=[\"']?)([^&\s\"'<>#]*)|(%3D)((?:(?!%26)[^&\s\"'<>#])*))",
    re.ASCII | re.IGNORECASE,
)
# `Cookie: …` as a header line or in the text of a dict, and `header:Name=…` as the list writes it; all of the rest of
# the line goes, since only the header itself knows where its value ends.
_HEADER = regex(
    r"(?<![\w-])((?:(?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?api-key|x-auth-token|private-token)[\"']?[ \t]*:"
    r"|header:[^\s=:]+[ \t]*[=:])([ \t]*)\S[^\r\n]*",
    re.ASCII | re.IGNORECASE,
)
_HEADER_WORDS = ("authorization", "cookie", "api-key", "-token", "header:")  # looking for these first is cheaper
_HIDDEN = "***"


def normal_url(text: str) -> str:
    """`text` as the URL that will be requested; raises EntryError when it is none that http or https can serve.

    Host names become punycode, blanks and Unicode are percent-encoded, the fragment is dropped. What is percent-encoded
    already stays as it is, so a signature survives byte for byte.
    """
    if _NORMAL.fullmatch(text):
        return text
    text = text.strip()
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise EntryError("the URL has no scheme", "write it with http:// or https:// in front")
    if scheme[0].lower() not in DEFAULT_PORTS:
        raise EntryError(f"URL scheme {scheme[0].lower()!r} is not supported", "give an http or https URL")
    if _CONTROL.search(text):
        raise EntryError("the URL holds a control character or a lone surrogate", "percent-encode it or remove it")
    if _REDACTED.search(text):
        raise EntryError("the secrets of this URL were replaced by ***", "put the original URL in its place")
    try:
        # Only here: its import takes long, and the second process (`small/process.py`) has no use for it.
        from w3lib.url import safe_url_string

        url = safe_url_string(text.partition("#")[0])
        parts = urlsplit(url)
        host = parts.hostname
    except (ValueError, UnicodeError):  # never shown: the text of these errors holds the host and its password
        raise EntryError("the URL has no valid host or port", "correct what stands between // and the next /") from None
    if not host:
        raise EntryError("the URL has no host", "write it as https://HOST/PATH")
    if not has_site(url):
        raise EntryError("the URL has no valid host or port", "correct what stands between // and the next /")
    if not parts.path:
        url = parts._replace(path="/").geturl()
    return url


def has_site(url: str) -> bool:
    """True when the host and port of this URL are valid, so that a connection can be tried."""
    try:
        return _is_site(_site_of(url))
    except (ValueError, UnicodeError):
        return False


# Called before each exchange.
@lru_cache(maxsize=4096)
def _is_site(site: str) -> bool:
    parts = urlsplit(site)
    return parts.port != 0 and _is_host(parts.hostname or "")


def _is_host(host: str) -> bool:
    if ":" not in host:
        return len(host) <= 253 and _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host.replace("%25", "%", 1))
    except ValueError:
        return False
    return True


def origin_of(url: str) -> str:
    """`host:port` of a URL, lower case, with the default port filled in: the key of an Origin."""
    return _origin_of_site(_site_of(url))


def same_origin(one: str, other: str) -> bool:
    """Scheme, host and port are equal (RFC 9110 §4.3.1)."""
    return one == other or (urlsplit(one).scheme == urlsplit(other).scheme and origin_of(one) == origin_of(other))


def is_private(address: str) -> bool:
    """True for an address that is not public: loopback, private, link-local, shared by a provider (RFC 6890). Text that
    is no IP address is the path of a Unix socket, so it is private, too."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in an IPv6 one (RFC 4291 §2.5.5.2, RFC 6052 §2.1, RFC 3056 §2).
        inside = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is not None:
            return not inside.is_global
    return not ip.is_global or ip.is_multicast


def slot_of(url: str) -> str:
    """The key of the downloader slot that Scrapy gives the URL: its host name."""
    return _slot_of_site(_site_of(url))


def _site_of(url: str) -> str:
    """Scheme and host as written. A list has many URLs but few hosts, so results are cached by this."""
    end = url.find("/", len("https://"))
    return url if end < 0 else url[:end]


# Called about a dozen times for each entry.
@lru_cache(maxsize=4096)
def _origin_of_site(site: str) -> str:
    parts = urlsplit(site)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 0)}"


@lru_cache(maxsize=4096)
def _slot_of_site(site: str) -> str:
    return urlsplit(site).hostname or ""


def path_and_query(url: str) -> tuple[str, str]:
    """As `urlsplit` has them, which needs five times as long."""
    usual = _USUAL.fullmatch(url)
    if usual is None:
        return urlsplit(url)[2:4]
    return usual[1], usual[2] or ""


def without_userinfo(url: str) -> str:
    """The URL without user name and password; otherwise byte for byte the same."""
    scheme, separator, rest = url.partition("://")
    site = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}{separator}{rest[site.rfind('@') + 1 :]}"


@lru_cache(maxsize=256)
def url_key(url: str) -> str:
    """The sha256 (hex) of what identifies an object: scheme, host, port, path, and the query without signatures.

    Takes a normal URL. Two links to one object, signed at different times or by different people, have one key.
    """
    if _NORMAL.fullmatch(url) and "?" not in url and ":80/" not in url and ":443/" not in url:
        return hashlib.sha256(url.encode()).hexdigest()  # as nearly all are, in a quarter of the time
    parts = urlsplit(url)
    parameters = [parameter for parameter in parts.query.split("&") if parameter]
    names = {parameter.partition("=")[0].lower() for parameter in parameters}
    signing = {name for name in names if name in _SIGNATURE or _FAMILY.fullmatch(name)}
    if "sig" in names:
        signing |= names & _AZURE
    kept = "&".join(parameter for parameter in parameters if parameter.partition("=")[0].lower() not in signing)
    site = origin_of(url)
    default = f":{DEFAULT_PORTS.get(parts.scheme)}"
    text = f"{parts.scheme}://{site.removesuffix(default)}{parts.path or '/'}{'?' if kept else ''}{kept}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def redact(text: str) -> str:
    """`text` with user names, addresses, passwords, signatures, tokens and secret headers replaced by ***.

    For any text: a URL, a log line, an error message with URLs in it. When in doubt it hides.
    """
    if ":" in text:
        lower = text.lower()
        if any(word in lower for word in _HEADER_WORDS):
            text = _HEADER.sub(rf"\1\2{_HIDDEN}", text)
    if "//" in text and "@" in text:
        text = _USERINFO.sub(f"//{_HIDDEN}@", text)
    if "=" in text:
        text = _PARAMETER.sub(_hide, text)
    return text


def _hide(match: re.Match[str]) -> str:
    name = match[1]
    equals, value = (match[2], match[3]) if match[2] else (match[4], match[5])
    lower = name.lower()
    if lower in _SECRET or _FAMILY.fullmatch(lower) or _IDENTITY.fullmatch(lower):
        return f"{name}{equals}{_HIDDEN}" if value else match[0]
    if "=" in value or "%3d" in value.lower():
        return f"{name}{equals}{_PARAMETER.sub(_hide, value)}"
    return match[0]
