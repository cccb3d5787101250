"""A list is checked before the first byte: `check` reads all its lines and `copy` keeps them, `collisions` finds names
that would be one file on disk, `index` finds entries by origin.
"""
