"""Lists: a file becomes checked entries, before the first byte is fetched.

`reader` opens any form of list, `check` reads it whole and `copy` keeps what was read, `collisions` finds names that
would share a file, `index` finds entries by origin, `shards` takes a part of a list, `source` hands entries out.
`checksums` adds the hashes of a checksum file. `formats` turns lists of other tools into ours.
"""
