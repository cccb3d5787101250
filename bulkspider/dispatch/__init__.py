"""Dispatch: which entry is next, and the work on one entry from its turn to its outcome.

`dispatcher` begins each entry of a list that `proofs` does not find done, and `underway` keeps it until its outcome.
`fetch` drives one entry: a place at the origin, attempts, what follows, the finish. `places` counts how many attempts
may run at once, `slots` is the queue of those that wait for a place, `segments` chooses which file gets a further
connection. `freshurl` finds a new link for one that has expired.
"""
