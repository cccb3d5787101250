"""Auth: credentials, and which hosts may see them.

`credentials` reads those in URLs and in the netrc file; `grants` asks BULK_AUTH for header fields, once for all entries
of an origin, and again before they expire; `oauth2` is the BULK_AUTH that gets tokens from an OAuth 2 server; `named`
loads the function or class that the settings name; `trusted` decides which other hosts may see credentials.
"""

from typing import TYPE_CHECKING, Any

from bulkspider.auth.grants import AuthRefused

if TYPE_CHECKING:
    from bulkspider.auth.oauth2 import OAuth2

__all__ = ["AuthRefused", "OAuth2"]


def __getattr__(name: str) -> Any:
    """Imported where it is used: few runs have tokens."""
    if name != "OAuth2":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bulkspider.auth.oauth2 import OAuth2

    return OAuth2
