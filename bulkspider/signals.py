"""Our signals, used as Scrapy's own: `crawler.signals.connect(receiver, bulkspider.signals.bulk_file_failed)`.

All are sent in the reactor's thread; receivers are plain functions, not coroutines. A file that was interrupted by the
end of the crawl is neither finished nor failed.
"""

from __future__ import annotations

from typing import Any

from pydispatch import dispatcher

# A file has its name: (result, name, url, spider). result: bulkspider.Result; `already` if an earlier run did it. name:
# of the entry, or the path relative to the store. url: without secrets.
bulk_file_finished = object()
# A file has failed, and is not tried again in this crawl: the same arguments; `result.error` says why.
bulk_file_failed = object()
# No request is sent to a host for a while: (origin, seconds, reason, spider). origin: host:port. seconds: from now on.
bulk_origin_paused = object()


def connections_of(signal: object, sender: Any) -> list[object]:
    """What is connected to a signal of a sender (Scrapy's is `crawler.signals.sender`), as pydispatch keeps it: mostly
    weak references. Fast, because it is asked for each row: `dispatcher.getReceivers` would be called four times, and
    raises and catches an error for each kind of connection that there is none of."""
    found: list[object] = []
    for each in (sender, dispatcher.Any):
        connected = dispatcher.connections.get(id(each))
        if connected:
            found += connected.get(signal, ())
            found += connected.get(dispatcher.Any, ())
    return found
