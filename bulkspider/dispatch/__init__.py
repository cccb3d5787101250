"""Dispatch: which entry is next, and one entry's life from its turn to its outcome.

`fetch` is that life: a place at the origin, attempts, what follows, the finish. `dispatcher` begins each entry of a
list that `proofs` does not find done, and `underway` has it until its outcome. `slots` says how many attempts run at
once, within `limits`, and `segments` which file gets a further connection. `freshurl` finds a new link for one that has
expired.
"""
