"""Pumps: move the bytes of a body from a socket to a part, in threads, so that the reactor is not blocked.

`reactor` takes what Twisted delivers. `threaded` moves a body of known length in a thread of its own: `splice` lets the
kernel move plain bytes, `tls` decrypts them first. `sharedthread` is the one thread of all slow bodies. `ratelimit`
limits the speed, `threads` are the worker threads, `descriptors` computes how many transfers the allowed number of open
files is enough for.
"""
