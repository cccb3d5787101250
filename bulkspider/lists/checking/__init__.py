"""A list is checked before the first byte: `reader` parses its lines (`plain` the simple ones), `shards` takes a part
of it, `copy` keeps the lines; `check` reads all of them, `collisions` finds names that would be one file on disk,
`index` finds entries by origin.
"""
