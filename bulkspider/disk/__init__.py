"""Disk: the output folder, the parts in it, and what is finished. No Twisted, no Scrapy; any thread may call it.

From the bottom: `folder/` is the output folder and its locks; `files/` the files of one entry: the open part and its
state; `leftovers/` what was there before, files of other programs and what a crash left; `part` the bytes of an entry
so far; `finished/` hashes and what they prove, and the ledger of finished entries; `commit/` the end of a file.
"""
