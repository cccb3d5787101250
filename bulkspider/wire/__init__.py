"""The wire: one HTTP exchange, headers first; the only room that touches private names of Scrapy and Twisted.

`exchange.py` asks with Scrapy's own agent and `head.py` has the answer. Its body flows through Twisted to a Receiver
(`pump.py`), or its socket is given away to a thread (`mover.py`), with its TLS (`tls.py`). `lines.py` keeps connections
on which threads ask by themselves. `failures.py` says as AttemptErrors what Twisted raises, `engine.py` how Scrapy's
engine is. It knows nothing of parts and states.
"""

from bulkspider.wire.engine import is_closing, is_idle
from bulkspider.wire.exchange import Wire
from bulkspider.wire.failures import map_error
from bulkspider.wire.head import Head, Receiver
from bulkspider.wire.lines import Line
from bulkspider.wire.tls import TlsStream

__all__ = ["Head", "Line", "Receiver", "TlsStream", "Wire", "is_closing", "is_idle", "map_error"]
