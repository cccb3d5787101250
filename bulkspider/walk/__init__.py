"""The walk: the index pages below a URL become a list.

`start` is where it begins, and says which URLs are below it and which of them are wanted; `links` reads an index page
of HTML, `bucket` a listing of S3; `spider` follows the pages; `record` writes the list and knows what could not be
read. The list is a list like any other from there on (`lists/`).
"""
