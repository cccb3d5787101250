"""Status: how much of the list of an output folder is done, read from the disk, also while a run works there.

`record` is what a run leaves for that: which entries failed, and what it is doing just now. `look` reads it, with the
list, the ledger and the parts; it takes no lock and needs no reactor.
"""
