"""What BULK_AUTH names: a function of the user, or the class for BULK_OAUTH2."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from scrapy.utils.misc import build_from_crawler, load_object

from bulkspider.auth.grants import Function
from bulkspider.auth.oauth2 import OAuth2
from bulkspider.entries.urls import redact
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
    if not _takes_two(found):
        raise UsageError(f"setting BULK_AUTH={options.auth}: it is called with two values, function(origin, refused)")


def function_of(options: Options, crawler: Crawler) -> Function | None:
    """What BULK_AUTH names, ready to be called; an object of a class is made as Scrapy makes its components. Raises
    UsageError."""
    found = _load(options)
    if not isinstance(found, type):
        return cast("Function | None", found)
    try:
        return cast(Function, build_from_crawler(found, crawler))
    except UsageError:
        raise
    except Exception as error:
        told = redact(f"{type(error).__name__}: {error}")
        raise UsageError(
            f"setting BULK_AUTH={options.auth}: an object of this class cannot be made ({told})"
        ) from error


def _takes_two(found: Any) -> bool:
    """It can be called with two values, as far as Python can tell without calling it."""
    if found is None:
        return True
    try:
        if isinstance(found, type):
            inspect.signature(found.__call__).bind(None, "", False)
        else:
            inspect.signature(found).bind("", False)
    except TypeError:
        return False
    except ValueError:
        return True  # a function of C says nothing
    return True


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
