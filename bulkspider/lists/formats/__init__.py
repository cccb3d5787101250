"""Formats: lists of other tools, and URLs of a command line, become lists of ours.

`row` is the interface of all formats: bytes in, rows out, each with its line number. `choose` finds the format of a
list. The formats are grouped by their syntax: `lines` (URLs, paths), `sums` (checksum files, bags), `table` (CSV, ENA,
ESGF), `xmls` (metalink, Internet Archive), `json` (Hugging Face, Zenodo, Figshare, Dataverse) and `aria2`. Another one
is a class with `rows` and `warnings`, and a line in `choose.FORMATS`.
"""
