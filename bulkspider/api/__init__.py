"""Functions for Python programs that are no Scrapy project: `bulkspider.fetch`, `fetch_async`, `partition`, `pooch`.

The crawl runs in a child process (`crawl.py`) that the caller's side (`child.py`) starts and talks to, so that nothing
of Scrapy or Twisted is ever loaded into the caller's process.
"""
