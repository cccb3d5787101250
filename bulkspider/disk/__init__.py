"""Disk: the output folder, the parts in it, and what is finished. No Twisted, no Scrapy; any thread may call it.

From the bottom: `folder` is the output folder and its lock; `files` the names of one entry in it, and its open part;
`state` what is written down of a part, and when its bytes are durable; `leftovers` what was there before: files of
other programs, and what a crash left; `part` the bytes of an entry so far; `ledger` what is done; `proof` what the
bytes of a file are worth; `commit` the end of a file: flush, rename, ledger.
"""
