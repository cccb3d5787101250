"""Lists: a file becomes checked entries, before the first byte is fetched.

`opening` reads a whole list: `checking/` parses and checks the lines and keeps a copy, `formats/` turns lists of other
tools into ours. `listsource` gives the entries to the run, as every `source` does.
"""
