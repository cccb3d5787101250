"""What BULK_AUTH names: a function of the user, or the class for BULK_OAUTH2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from scrapy.utils.misc import build_from_crawler, load_object

from bulkspider.auth.grants import Function
from bulkspider.auth.oauth2 import OAuth2
from bulkspider.errors import UsageError

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from bulkspider.options import Options

OAUTH2 = "bulkspider.auth.oauth2.OAuth2"


def check_auth(options: Options) -> None:
    """Raises UsageError when BULK_AUTH or BULK_OAUTH2 do not fit."""
    found = _load(options)
    if isinstance(found, type) and issubclass(found, OAuth2):
        found.check(options.oauth2)


def function_of(options: Options, crawler: Crawler) -> Function | None:
    """What BULK_AUTH names, ready to be called; a class is made as every component of Scrapy. Raises UsageError."""
    found = _load(options)
    return cast(Function, build_from_crawler(found, crawler)) if isinstance(found, type) else found


def _load(options: Options) -> Any:
    path = options.auth or (OAUTH2 if options.oauth2 else None)
    if path is None:
        return None
    try:
        found = load_object(path)
    except (ImportError, NameError, ValueError, TypeError) as error:
        raise UsageError(f"setting BULK_AUTH={path}: {error}") from error
    if not callable(found):
        raise UsageError(f"setting BULK_AUTH={path}: not a function")
    return found
