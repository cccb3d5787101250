"""A token server (OAuth 2) in the manner of Keycloak, and hosts that want its tokens; it knows how many sessions there are.

A log-in by user name and password begins a session, which has one access token and one refresh token at a time; a
refresh goes on with it. `most_sessions` is the most that were alive at once.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from support.faults import status
from support.faulty import Behaviour, Exchange, good

USER, PASSWORD, SECRET = "ada", "correct horse", "client secret"


@dataclass
class Session:
    """access, refresh: its tokens. ends, dies: until when (monotonic) they are good."""

    access: str
    refresh: str
    ends: float
    dies: float


class Keycloak:
    """life: seconds that an access token lives. session: seconds that a session lives without a refresh."""

    def __init__(self, life: float = 2.0, session: float = 1800.0) -> None:
        self.sessions: list[Session] = []
        self.grants: list[dict[str, str]] = []
        self.most_sessions = 0
        self.down = 0
        self._life = life
        self._session = session
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def token(self, exchange: Exchange) -> None:
        """The behaviour of the token URL."""
        asked = {name: values[0] for name, values in parse_qs(exchange.recorded.body.decode()).items()}
        with self._lock:
            self.grants.append(asked)
            if self.down:
                self.down -= 1
                status(503)(exchange)
                return
            answer = self._answer(asked)
        refusal = {"error": "invalid_grant", "error_description": f"no {asked.get('password')} for {USER}"}
        body = json.dumps(answer or refusal).encode()
        exchange.send_status(200 if answer else 400)
        exchange.header("Content-Type", "application/json")
        exchange.header("Content-Length", len(body))
        exchange.end_headers()
        exchange.send(body)

    def _answer(self, asked: dict[str, str]) -> dict[str, object] | None:
        now = time.monotonic()
        self.sessions = [session for session in self.sessions if session.dies > now]
        if asked["grant_type"] == "refresh_token":
            found = [session for session in self.sessions if session.refresh == asked["refresh_token"]]
            if not found:
                return None
            (session,) = found
        elif (asked.get("username"), asked.get("password")) == (USER, PASSWORD) or asked["grant_type"] == "client_credentials":  # fmt: skip
            session = Session("", "", 0, 0)
            self.sessions.append(session)
            self.most_sessions = max(self.most_sessions, len(self.sessions))
        else:
            return None
        number = next(self._numbers)
        session.access, session.refresh = f"access-{number}", f"refresh-{number}"
        session.ends, session.dies = now + self._life, now + self._session
        return {"access_token": session.access, "refresh_token": session.refresh, "expires_in": self._life, "token_type": "Bearer"}  # fmt: skip

    def knows(self, exchange: Exchange) -> bool:
        """The request brings a token that is good now."""
        told = exchange.headers.get("authorization", "")
        with self._lock:
            return any(told == f"Bearer {s.access}" and s.ends > time.monotonic() for s in self.sessions)

    def revoke(self, *, sessions: bool = False) -> None:
        """From now on no access token is good, nor, with `sessions`, any refresh token."""
        with self._lock:
            for session in self.sessions:
                session.access = "revoked"
            if sessions:
                self.sessions.clear()

    def guarded(self, behaviour: Behaviour = good) -> Behaviour:
        """`behaviour` for who brings a good token, 401 for others."""
        return guarded(self.knows, behaviour)


def guarded(knows: Callable[[Exchange], bool], behaviour: Behaviour) -> Behaviour:
    def answer(exchange: Exchange) -> None:
        (behaviour if knows(exchange) else status(401))(exchange)

    return answer
