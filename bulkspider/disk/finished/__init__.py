"""Finished entries: `hashing` computes hashes, `proof` judges a part by them, `verify` a file that is read again;
`line` is what is noted of an entry, `ledger` all such lines.
"""
