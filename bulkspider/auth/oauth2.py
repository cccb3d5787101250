"""OAuth 2 (RFC 6749): one access token for the hosts that BULK_OAUTH2 names, renewed by its refresh token.

    BULK_OAUTH2 = {
        "token_url": "https://identity.example.org/realms/R/protocol/openid-connect/token",
        "client_id": "public",
        "hosts": ["catalogue.example.org"],
    }

The user name and the password (or the client's secret, or a refresh token) come from the environment or from the netrc
file, never from a setting. Each log-in begins a session at the server, and a user may have only a few: so there is one
log-in for all hosts, it is prolonged by refresh tokens, and a new log-in follows only when the server has refused
those. Tokens are asked for by Scrapy's own downloader, so proxies and TLS settings apply.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode, urlsplit

from msgspec import Struct
from scrapy import Request
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import DeferredLock

from bulkspider.auth.credentials import basic, login_of
from bulkspider.auth.grants import AuthRefused
from bulkspider.auth.trusted import matches
from bulkspider.entries.redaction import hider
from bulkspider.entries.urls import slot_of
from bulkspider.errors import UsageError
from bulkspider.text import nearest, visible

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self

GRANTS = ("password", "client_credentials", "refresh_token")
KEYS = ("token_url", "client_id", "hosts", "grant", "scope")
# Environment variables; without them the netrc file is looked at, for the host of the token URL.
USER, PASSWORD = "BULK_OAUTH2_USER", "BULK_OAUTH2_PASSWORD"
CLIENT_SECRET, REFRESH_TOKEN = "BULK_OAUTH2_CLIENT_SECRET", "BULK_OAUTH2_REFRESH_TOKEN"
# Time limit of an exchange with the token server.
TIMEOUT_SECONDS = 60
# The longest answer of the token server that is read; a token has a few KiB.
MOST_BYTES = 1024 * 1024
# Characters of the token server's reason for a refusal that are shown.
REASON_CHARACTERS = 200
# Answers that say that the credentials are wrong, not that the server is (RFC 6749 §5.2).
REFUSAL_STATUSES = (400, 401, 403)


class Client(Struct, frozen=True):
    """What BULK_OAUTH2, the environment and the netrc file say. secret: the client's own, where it has one."""

    token_url: str
    hosts: tuple[str, ...]
    grant: str
    client_id: str | None
    secret: str | None
    scope: str | None
    user: str | None = None
    password: str | None = None
    refresh_token: str | None = None


class Token(Struct, frozen=True):
    """access: the token. began, ends: its life (seconds of `time.monotonic`); ends None when the server did not say."""

    access: str
    began: float
    ends: float | None
    refresh: str | None

    @property
    def is_old(self) -> bool:
        """Half of its life is over."""
        return self.ends is not None and time.monotonic() > self.began + (self.ends - self.began) / 2


class OAuth2:
    """The BULK_AUTH that BULK_OAUTH2 describes: called with an origin, it gives the field Authorization."""

    def __init__(self, crawler: Crawler, client: Client) -> None:
        self._crawler = crawler
        self._client = client
        self._token: Token | None = None
        self._lock = DeferredLock()
        self._given: dict[str, Token] = {}
        self._refusal = ""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        value = crawler.settings["BULK_OAUTH2"]
        return cls(crawler, client_of(json.loads(value) if isinstance(value, str) else value))

    @staticmethod
    def check(setting: object) -> None:
        """Raises UsageError when the setting is not complete, or a secret is neither in the environment nor in
        netrc."""
        client_of(setting)

    async def __call__(self, origin: str, refused: bool) -> dict[str, Any] | None:
        if not any(matches(f"https://{origin}/", pattern) for pattern in self._client.hosts):
            return None
        await maybe_deferred_to_future(self._lock.acquire())
        try:
            token = await self._current(origin, refused)
        finally:
            self._lock.release()
        self._given[origin] = token
        fields: dict[str, Any] = {"Authorization": f"Bearer {token.access}"}
        if token.ends is not None:
            fields["expires_in"] = token.ends - time.monotonic()
        return fields

    async def _current(self, origin: str, refused: bool) -> Token:
        token = self._token
        is_new = token is not None and token is not self._given.get(origin)
        if token is not None and is_new and not token.is_old:
            return token  # it was renewed for another host, or this origin has not used it yet
        began = time.monotonic()
        answer = None
        if (refresh := token.refresh if token is not None else self._client.refresh_token) is not None:
            answer = await self._ask({"grant_type": "refresh_token", "refresh_token": refresh})
        if answer is None:
            answer = await self._log_in()
        self._token = _token_of(answer, began, self._client.refresh_token)
        return self._token

    async def _log_in(self) -> dict[str, Any]:
        client = self._client
        fields = {"grant_type": client.grant}
        if client.grant == "password":
            fields |= {"username": client.user or "", "password": client.password or ""}
        elif client.grant == "refresh_token":
            fields["refresh_token"] = client.refresh_token or ""
        answer = await self._ask(fields)
        if answer is None:
            raise AuthRefused(f"{slot_of(client.token_url)} refuses the {_WORDS[client.grant]}{self._refusal}")
        return answer

    async def _ask(self, fields: Mapping[str, str]) -> dict[str, Any] | None:
        """The server's answer; None when it refuses the credentials. Raises OSError for everything else."""
        client = self._client
        fields = dict(fields)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if client.scope:
            fields["scope"] = client.scope
        if client.secret is not None:
            # RFC 6749 §2.3.1: every server supports Basic authentication.
            words = (quote_plus(word).encode() for word in (client.client_id or "", client.secret))
            headers["Authorization"] = basic(*words)
        elif client.client_id:
            fields["client_id"] = client.client_id
        meta = {
            # A slot of its own: in the others, all places may be taken by requests that wait for this token.
            "download_slot": "bulk-auth",
            "download_timeout": TIMEOUT_SECONDS,
            "download_maxsize": MOST_BYTES,
            "dont_redirect": True,
            "dont_retry": True,
            "dont_cache": True,
            "dont_merge_cookies": True,
            "dont_obey_robotstxt": True,
            "allow_offsite": True,
            "handle_httpstatus_all": True,
        }
        request = Request(
            client.token_url, method="POST", body=urlencode(fields), headers=headers, meta=meta, dont_filter=True
        )
        host = slot_of(client.token_url)
        assert self._crawler.engine is not None
        response = await self._crawler.engine.download_async(request)
        if response.status in REFUSAL_STATUSES:
            sent = (client.secret, client.user, client.password, *fields.values())
            self._refusal = _reason(response.body, [word for word in sent if word])
            return None
        try:
            answer = json.loads(response.body) if response.status == 200 else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise OSError(f"{host} gave no token ({response.status})")
        return answer


_WORDS = {
    "password": "user name or the password",
    "client_credentials": "client or its secret",
    "refresh_token": "refresh token",
}


def _reason(body: bytes, sent: Sequence[str]) -> str:
    """The reason that the server gives for its refusal (RFC 6749 §5.2), in brackets. sent: secrets that it was sent and
    may repeat."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    told = [answer.get(key) for key in ("error", "error_description")] if isinstance(answer, dict) else []
    text = ": ".join(word for word in told if isinstance(word, str) and word)
    text = hider(sent, ())(text)[:REASON_CHARACTERS]
    return f" ({visible(text)})" if text else ""


def _token_of(answer: Mapping[str, Any], began: float, refresh: str | None) -> Token:
    """RFC 6749 §5.1. refresh: the refresh token of before, which counts where the answer has no new one."""
    life, renewed = answer.get("expires_in"), answer.get("refresh_token")
    try:
        ends = began + float(life) if life is not None else None
    except (TypeError, ValueError):
        ends = None
    return Token(answer["access_token"], began, ends, renewed if isinstance(renewed, str) else refresh)


def client_of(setting: object) -> Client:
    """The checked BULK_OAUTH2 with its secrets. Raises UsageError."""
    if not isinstance(setting, Mapping):
        raise UsageError('setting BULK_OAUTH2: write {"token_url": "https://…", "client_id": "…", "hosts": ["…"]}')
    unknown = [key for key in setting if key not in KEYS]
    if any("secret" in str(key) or "pass" in str(key) or "user" in str(key) for key in unknown):
        raise UsageError(
            "setting BULK_OAUTH2: credentials are no settings; give them in the environment or in ~/.netrc"
        )
    if unknown:
        raise UsageError(f"setting BULK_OAUTH2: unknown key {visible(str(unknown[0]))}{nearest(str(unknown[0]), KEYS)}")
    url, hosts, grant = setting.get("token_url"), setting.get("hosts"), setting.get("grant", "password")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError("setting BULK_OAUTH2: token_url must be the URL of the token server")
    hosts = [hosts] if isinstance(hosts, str) else hosts
    if not isinstance(hosts, Sequence) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise UsageError('setting BULK_OAUTH2: hosts must say who gets the token, for example ["data.example.org"]')
    if grant not in GRANTS:
        raise UsageError(f"setting BULK_OAUTH2: grant must be one of {', '.join(GRANTS)}")
    return _with_secrets(url, tuple(host.lower() for host in hosts), grant, setting)


def _with_secrets(url: str, hosts: tuple[str, ...], grant: str, setting: Mapping[str, Any]) -> Client:
    env, login = os.environ, login_of(slot_of(url))
    first, second = login if login is not None else (None, None)
    client_id, scope = setting.get("client_id"), setting.get("scope")
    user = password = refresh = None
    secret = env.get(CLIENT_SECRET)
    if grant == "password":
        user, password = env.get(USER) or first, env.get(PASSWORD) or second
        missing, names = not user or password is None, f"{USER} and {PASSWORD}"
    elif grant == "client_credentials":
        client_id, secret = client_id or first, secret or second
        missing, names = not client_id or not secret, CLIENT_SECRET
    else:
        refresh = env.get(REFRESH_TOKEN) or second
        missing, names = not refresh, REFRESH_TOKEN
    if missing:
        raise UsageError(
            f"setting BULK_OAUTH2: no credentials for {slot_of(url)}; set {names} in the environment, or write a line "
            f"`machine {slot_of(url)} login … password …` into ~/.netrc"
        )
    return Client(url, hosts, grant, client_id, secret, scope, user, password, refresh)
