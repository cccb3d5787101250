"""Entries: one line of a list becomes a checked Entry.

`grammar` cuts a line into cells, `names`, `urls` and `fields` check what they hold, `entry` puts them together.
`mistakes` recognises text that is no list and says what to do about it. `sumsfile` reads the lines of checksum files;
`redaction` keeps secrets out of the logs.
"""
