"""Wire: one HTTP exchange; the only package that uses private names of Scrapy and Twisted.

`exchange` sends the request with Scrapy's own agent; `response` is the answer. Twisted delivers its body to a Receiver
(`pumps/reactor.py`), or a thread gets its socket (`pumps/threaded.py`), with its TLS (`tls`). Threads send requests
themselves on the connections of `lent/`. `limits` bounds the head and the chunks of an answer. `failures` translates
Twisted's exceptions into AttemptErrors. `compat` hides the differences between Scrapy releases and the state of
Scrapy's engine. `fallback` calls the handlers of requests that are not ours. Nothing here knows parts and states.
"""

from bulkspider.wire.compat import end_scraping, has_items, is_closing, is_idle
from bulkspider.wire.exchange import Wire
from bulkspider.wire.failures import map_error
from bulkspider.wire.lent.connection import RawConnection
from bulkspider.wire.lent.conversation import Conversation
from bulkspider.wire.lent.request import SharedRequest
from bulkspider.wire.response import Head, Receiver
from bulkspider.wire.tls import TlsBuffers, TlsStream

__all__ = [
    "AnswerHead",
    "Conversation",
    "Head",
    "RawConnection",
    "Receiver",
    "SharedRequest",
    "TlsBuffers",
    "TlsStream",
    "Wire",
    "end_scraping",
    "has_items",
    "is_closing",
    "is_idle",
    "map_error",
]
