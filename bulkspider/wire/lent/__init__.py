"""Connections that are lent to threads, which send requests on them themselves, one after the other.

`connection` makes and keeps them. `conversation` is the thread's side: a request and its answer, again and again.
`request` writes the requests.
"""
