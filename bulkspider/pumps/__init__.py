"""Pumps: move the bytes of a body from a socket to a part, in threads, so that the reactor is not blocked.

`reactor` takes what Twisted delivers. `threaded` moves a body of known length without the reactor: `splice` lets the
kernel move plain bytes, `tls` decrypts them first. `visits` are the few threads that do this for all bodies.
`ratelimit` limits the speed, `threads` are the worker threads, `descriptors` computes how many transfers the allowed
number of open files is enough for.
"""
