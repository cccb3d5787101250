"""Auth: credentials, and who may see them.

`credentials` are the user's own, in URLs and in the netrc file; `grants` asks BULK_AUTH for header fields, once for all
entries of an origin, and again before they expire; `oauth2` is the BULK_AUTH that gets tokens from an OAuth 2 server;
`named` finds the one that the settings name, `trusted` says which hosts may see what is for another one.
"""

from bulkspider.auth.grants import AuthRefused
from bulkspider.auth.oauth2 import OAuth2

__all__ = ["AuthRefused", "OAuth2"]
