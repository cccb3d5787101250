"""Protocol: the rules of HTTP ranges and of resuming, as pure functions of data (RFC 9110, RFC 9112, RFC 9530).

`plan` decides what follows from (entry, part state, the server's answer). `ranges` is a set of byte intervals.
`byteranges` says which bytes of a file each of its connections fetches, `gain` whether a further connection helps.
`resumed` counts the bytes that need not be fetched again. `digests` reads the hashes that the server states. `sniff`
compares the first bytes of a file with its name. `servertext` reads the text of a refusal. No clock, no socket, no
disk.
"""
