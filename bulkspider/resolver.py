"""Name resolution for runs of days: the operating system's, asked afresh for every connection, IPv6 and IPv4.

Scrapy's own resolvers remember an address for as long as the process lives, and one of them knows IPv4 only; after a
fail-over such a run would connect to the old address for ever. Twisted's default does what is wanted, so this class
only keeps Scrapy from replacing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from typing_extensions import Self


class FreshResolver:
    """For the setting TWISTED_DNS_RESOLVER."""

    @classmethod
    def from_crawler(cls, crawler: Crawler, reactor: Any) -> Self:
        return cls()

    def install_on_reactor(self) -> None:
        """Leaves the reactor's resolver in place."""
