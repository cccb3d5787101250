"""Small files: several of them by one request of the spider, and a second process that fetches them.

Of a small file Python's work takes longer than the bytes. `sharing` decides which entries share a request. A `batch`
works through them in a thread, over one connection; `probing` does so for a dry run. What makes the answer for a small
file a good one is in `file`.

Python runs one thread at a time, so a long list of small files is faster with two processes: `second` starts another
one and sends it batches (`sent`), `process` is what runs there, over connections of its own (`connection`). Everything
that the user sees (rows, the display, the ledger, limits of hosts) stays with the first process.
"""
