"""Transfer: one attempt: ask, judge the answer as `protocol/plan.py` says, carry the verdict out.

`transfer` is the attempt of a whole file, `segment` that of a further connection. Both ask by `exchange`, which the dry
run's probes use too, and read by `body`, which also watches that bytes flow. `foreign` compares what somebody else left
on disk with the origin, `length` finds out a length that was not told. `batch` fetches several small files over one
connection. `destinations` says where a request may go, and who may see which secret.
"""
