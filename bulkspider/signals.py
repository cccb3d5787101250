"""Signals of ours, for Scrapy's own means: `crawler.signals.connect(receiver, bulkspider.signals.bulk_file_failed)`.

All are sent in the reactor's thread to plain functions: no coroutines. A file that the end of a crawl interrupts is
neither finished nor failed.
"""

# A file has its name: (result, name, url, spider). result: bulkspider.Result; `already` if an earlier run did it. name:
# of the entry, or the path relative to the store. url: without secrets.
bulk_file_finished = object()
# It has failed, and nobody tries again in this crawl: the same arguments; `result.error` says why.
bulk_file_failed = object()
# A host is left alone for a while: (origin, seconds, reason, spider). origin: host:port. seconds: from now on.
bulk_origin_paused = object()
