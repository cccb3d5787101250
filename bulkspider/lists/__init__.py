"""Lists: a file becomes checked entries, before the first byte is fetched.

`reader` parses the lines, `check` reads the whole list and `copy` keeps a copy, `collisions` finds names that would be
one file on disk, `index` finds entries by origin, `shards` takes a part of a list, `source` gives the entries to the
run. `formats` turns lists of other tools into ours.
"""
