"""The BULK_* settings, read and validated once into a frozen Options.

Nothing else in the package reads a BULK_* setting. A value that does not fit, or a BULK_* name that does not exist, is
a UsageError that names the setting and the nearest known one, so that a typo is found at the start.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from bulkspider.errors import UsageError
from bulkspider.regex import regex
from bulkspider.text import nearest
from bulkspider.timetable import Timetable, is_timetable

KIB = 1024
MIB = 1024 * KIB

_SIZE = regex(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(value: object) -> int:
    """Bytes from `64M`, `1.5G`, `4096` or 4096; K, M, G, T are powers of 1024. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("not a size")
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError("not a size")
        number = int(value)
        if number < 0:
            raise ValueError("a size cannot be negative")
        return number
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("not a size; write for example 64K, 16M, 1.5G")
    size = float(match[1]) * 1024 ** _POWER[match[2].upper()]
    if not math.isfinite(size):
        raise ValueError("too large for a size")
    return int(size)


def human(count: float) -> str:
    """A number of bytes with a binary unit, for people: 1.5 GiB."""
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1), ("GiB", 1)):
        if round(abs(count), digits) < 1024:
            return f"{count:.{digits}f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def clock(seconds: float) -> str:
    """0:07, 4:05, 2:04:05, 3 d 04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def plural(count: int, one: str, many: str) -> str:
    """A count with the words for it: 1 entry, 2,000 entries."""
    return f"{count:,} {one if count == 1 else many}"


def _size(value: object) -> int:
    return parse_size(value)


def _limit(value: object) -> int | None:
    """Bytes, or bytes per second; None (no limit) for an empty value, None or 0."""
    if value is None or value == "":
        return None
    return parse_size(value) or None


def parse_rate(value: object) -> int | Timetable | None:
    """Bytes per second, a timetable of them, or None for no limit."""
    if is_timetable(value):
        return Timetable.parse(str(value), parse_size)
    return _limit(value)


def _seconds(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not number >= 0:
        raise ValueError("seconds cannot be negative")
    return number


def _lease(value: object) -> float:
    number = _seconds(value)
    if number < 1:
        raise ValueError("a lease shorter than a second cannot be kept")
    return number


def _count(value: object) -> int:
    number = int(str(value))
    if number < 0:
        raise ValueError("a count cannot be negative")
    return number


def _at_least_one(value: object) -> int:
    number = _count(value)
    if not number:
        raise ValueError("must be at least 1")
    return number


def _port(value: object) -> int:
    number = _count(value)
    if number > 65535:
        raise ValueError("a port is at most 65535")
    return number


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", "", "none"):
        return False
    raise ValueError("neither true nor false")


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def has_scheme(path: str) -> bool:
    """True for a URL or the name of a service (`s3://bucket/folder`), which are no paths."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def _folder(value: object) -> str | None:
    if value not in (None, "") and has_scheme(str(value)):
        raise ValueError("files are written to a folder of this machine only; give its path")
    return _text(value)


def _any(value: object) -> Any:
    return value or None


def _table(value: object) -> Mapping[str, Any] | None:
    """A dict, or one as JSON, as it is written on a command line."""
    if isinstance(value, str) and value:
        value = json.loads(value)
    if value and not isinstance(value, Mapping):
        raise ValueError("not a dict")
    return cast("Mapping[str, Any]", value) if value else None


def _words(value: object) -> tuple[str, ...] | None:
    """Texts: a list, or one text with commas between them."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple, set, frozenset)) and value is not None:
        raise ValueError("not a list")
    return tuple(str(word).strip() for word in value or () if str(word).strip()) or None


def _choice(*allowed: str) -> Any:
    def convert(value: object) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return convert


def _maybe(convert: Any) -> Any:
    """`convert`, or None for an empty value: the spider and the files pipeline then have different defaults."""
    return lambda value: None if value in (None, "") else convert(value)


def _setting(default: Any, convert: Any) -> Any:
    return field(default=default, metadata={"convert": convert})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every BULK_* setting: the field `stall_timeout` is BULK_STALL_TIMEOUT. Sizes are bytes, times seconds."""

    connect_timeout: float = _setting(30.0, _seconds)
    headers_timeout: float = _setting(60.0, _seconds)
    stall_timeout: float = _setting(60.0, _seconds)
    min_speed: int = _setting(1 * KIB, _size)
    retry_times: int = _setting(10, _count)
    retry_delay: float = _setting(1.0, _seconds)
    retry_delay_max: float = _setting(300.0, _seconds)
    retry_after_max: float = _setting(3600.0, _seconds)
    origin_patience: float = _setting(3600.0, _seconds)
    resume_overlap: int = _setting(64 * KIB, _size)
    checkpoint: int = _setting(64 * MIB, _size)
    digest: str = _setting("auto", _choice("auto", "sha256", "off"))
    server_digest: str = _setting("require", _choice("require", "warn", "ignore"))
    rate_limit: int | Timetable | None = _setting(None, parse_rate)
    rate_limit_per_host: int | None = _setting(None, _limit)
    segments: int = _setting(0, _count)
    segment_min: int = _setting(0, _size)
    range_max: int = _setting(0, _size)
    hosts: str | None = _setting(None, _text)
    batch: int = _setting(32, _count)
    processes: int = _setting(2, _at_least_one)
    order: str = _setting("list", _choice("list", "smallest", "largest"))
    fresh_url: str | None = _setting(None, _text)
    auth: str | None = _setting(None, _text)
    oauth2: Mapping[str, Any] | None = _setting(None, _table)
    trusted_hosts: tuple[str, ...] | None = _setting(None, _words)
    lease: float = _setting(120.0, _lease)
    items: str | None = _setting(None, _maybe(_choice("new", "all")))
    stop_patience: float = _setting(60.0, _seconds)
    store: str | None = _setting(None, _folder)
    preallocate: bool = _setting(False, _flag)
    remote_time: bool = _setting(False, _flag)
    max_size: int | None = _setting(None, _limit)
    private_redirects: bool = _setting(False, _flag)
    sniff: bool = _setting(True, _flag)
    html: str | None = _setting(None, _maybe(_choice("accept", "refuse")))
    require_proof: bool = _setting(False, _flag)
    then: str | None = _setting(None, _text)
    then_at_once: int = _setting(2, _at_least_one)
    stage_max: int = _setting(0, _size)
    progress: str = _setting("auto", _choice("auto", "bar", "log", "off"))
    color: bool = _setting(True, _flag)
    metrics_port: int = _setting(0, _port)
    metrics_host: str = _setting("127.0.0.1", str)
    fallback_http_handler: Any = _setting(None, _any)
    fallback_https_handler: Any = _setting(None, _any)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Options:
        """Reads every BULK_* key of `settings`; raises UsageError that names all keys that do not fit."""
        known = {f"BULK_{f.name.upper()}": f for f in fields(cls)}
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for key in settings:
            if not isinstance(key, str) or not key.startswith("BULK_"):
                continue
            if key not in known:
                wrong.append(f"unknown setting {key}{nearest(key, known)}")
                continue
            try:
                values[known[key].name] = known[key].metadata["convert"](settings[key])
            except (ValueError, TypeError) as error:
                wrong.append(f"setting {key}={settings[key]!r}: {error}")
        if wrong:
            raise UsageError("\n".join(wrong))
        return cls(**values)

    @property
    def fallbacks(self) -> dict[str, Any]:
        """The download handlers (class or import path) for other requests, by scheme, where they are not Scrapy's."""
        handlers = {"http": self.fallback_http_handler, "https": self.fallback_https_handler}
        return {scheme: handler for scheme, handler in handlers.items() if handler is not None}
