"""The gate: the present version continues what the frozen one left, and makes the same requests with the same outcomes.

`rows.py` has the situations, `differences.py` the differences that are intended, one line each. What is compared and
how is in `support/record.py`; how the frozen version is run, in `support/versions.py`.
"""
