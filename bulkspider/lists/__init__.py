"""Lists: a file becomes checked entries, before the first byte is fetched.

`opening` reads a whole list: `reader` parses the lines, `checking/` checks them and keeps a copy, `formats/` turns
lists of other tools into ours, `shards` takes a part of a list. `listsource` gives the entries to the run, as every
`source` does.
"""
