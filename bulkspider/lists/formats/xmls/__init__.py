"""Lists in XML: metalinks (RFC 5854, and version 3) and the file lists of the Internet Archive.

`elements` reads a document by the parser of the standard library, `metalink` and `archive` say what its elements mean.
Documents of programs repeat one form of element a million times; `shapes` learns it, and reads the rest by it.
"""
