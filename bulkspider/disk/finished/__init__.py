"""Finished entries: `hashing` computes hashes, `proof` judges a part by them, `verify` a file that is read again;
`commit` is the end of a file (flush, rename, ledger); `line` is what is noted of an entry, `ledger` all such lines.
"""
