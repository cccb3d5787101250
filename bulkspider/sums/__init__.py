"""Sums: checksum files that are given beside a list, and their signatures.

`checksums` says which line of such a file speaks of which entry, `signature` whether somebody whose key the user has
has signed it. The grammar of the lines is `entries/sumsfile.py`.
"""
