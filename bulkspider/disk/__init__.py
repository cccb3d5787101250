"""Disk: the output folder, the parts in it, and what is finished. No Twisted, no Scrapy; any thread may call it.

From the bottom: `folder` is the output folder and its lock; `files`: the files of one entry, and its open part;
`state`: the state file of a part, and when its bytes are durable; `leftovers`: what was there before, files of other
programs and what a crash left; `part`: the bytes of an entry so far; `ledger`: the finished entries; `proof`: hashes
and what they prove; `commit`: the end of a file (flush, rename, ledger).
"""
