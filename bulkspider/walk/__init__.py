"""The walk (`--recurse`): makes a list from the index pages below a URL.

`start` is the URL where it begins, and decides which URLs are below it and which of them are wanted; `links` reads an
index page of HTML, `bucket` a listing of S3; `spider` follows the pages; `record` writes the list and notes what could
not be read; `crawl` runs all that before the crawl of the files. Then it is a list like any other (`lists/`).
"""
