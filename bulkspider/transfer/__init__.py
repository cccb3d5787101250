"""Transfer: one attempt at a file: ask, judge the answer by `protocol/plan.py`, carry the verdict out.

`transfer` is the attempt at a whole file, `segment` that of a further connection, `probe` that of a dry run. All ask by
`asking/`, and the first two read by `body`, which also checks that bytes flow. `foreign` compares files of other
programs with the origin, `length` finds out a length that the answer did not state.
"""
