"""Sums: checksum files that are given beside a list, and their signatures.

`checksums` finds the line of such a file for an entry; `signature` checks that it was signed with a key that the user
trusts. The grammar of the lines is `entries/sumsfile.py`.
"""
