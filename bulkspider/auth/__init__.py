"""Auth: credentials, and which hosts may see them.

`credentials` reads those in URLs and in the netrc file; `grants` asks BULK_AUTH for header fields, once for all entries
of an origin, and again before they expire; `oauth2` is the BULK_AUTH that gets tokens from an OAuth 2 server; `named`
loads the function or class that the settings name; `trusted` decides which other hosts may see credentials.
"""

from bulkspider.auth.grants import AuthRefused
from bulkspider.auth.oauth2 import OAuth2

__all__ = ["AuthRefused", "OAuth2"]
