"""Pumps: bytes from a socket to a part, beside the reactor.

`reactor` takes what Twisted delivers, `threaded` moves a body of known length in a thread of its own: `splice` lets the
kernel move plain bytes, `tls` decrypts them first. `ratelimit` says how fast, `threads` are the worker threads,
`descriptors` says for how many transfers the open files are enough.
"""
