"""Functions for Python programs that are no Scrapy project: `bulkspider.fetch`, `fetch_async`, `partition`, `pooch`.

The crawl runs in a child process (`crawl.py`) that the caller's side (`child.py`) starts and talks to, so that nothing
of Scrapy or Twisted is ever loaded into the caller's process. `fetch` is the call itself, `given` checks its arguments,
`shown` prints the progress; `partition` divides entries among workers, `pooch` is a downloader for pooch.
"""
