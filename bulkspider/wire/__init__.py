"""Wire: one HTTP exchange, headers first; the only package that touches private names of Scrapy and Twisted.

`exchange` asks with Scrapy's own agent, `response` is the answer. Its body flows through Twisted to a Receiver
(`pumps/reactor.py`), or its socket is given away to a thread (`pumps/threaded.py`), with its TLS (`tls`). `connection`
has those on which threads ask by themselves. `limits` bounds what the head of an answer may cost. `failures` maps what
Twisted raises to AttemptErrors, `compat` knows how Scrapy's engine is and what differs between Scrapy
releases, `fallback` finds the handlers of requests that are not ours. It knows nothing of parts and states.
"""

from bulkspider.wire.compat import end_scraping, has_items, is_closing, is_idle
from bulkspider.wire.connection import Conversation, RawConnection
from bulkspider.wire.exchange import Wire
from bulkspider.wire.failures import map_error
from bulkspider.wire.response import Head, Receiver
from bulkspider.wire.tls import TlsStream

__all__ = [
    "Conversation",
    "Head",
    "RawConnection",
    "Receiver",
    "TlsStream",
    "Wire",
    "end_scraping",
    "has_items",
    "is_closing",
    "is_idle",
    "map_error",
]
