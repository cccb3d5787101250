"""Formats: lists of other tools, and URLs of a command line, become lists of ours.

`row` is the one interface: bytes in, rows out, each with its line. `choose` finds the format of a list and knows all of
them. The formats stand behind it by what they are made of: `lines` (URLs, paths), `sums` (checksum files, bags),
`table` (CSV, ENA, ESGF), `xmls` (metalink, Internet Archive), `json` (Hugging Face, Zenodo, Figshare, Dataverse) and
`aria2`. Another one is a class with `rows` and `warnings`, and a line in `choose.FORMATS`.
"""
