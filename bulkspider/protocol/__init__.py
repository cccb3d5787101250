"""Protocol: the rules of HTTP ranges and of resuming, as pure functions of data (RFC 9110, RFC 9112, RFC 9530).

`plan` decides from (entry, part state, the server's answer) what follows; `ranges` is a set of byte intervals,
`byteranges` says which bytes of a file each of its connections fetches, `digests` what the server states as a hash,
`sniff` what the first bytes of a file say about its name, `servertext` what a server said when it refused.
No clock, no socket, no disk.
"""
