"""The end of a file: make durable, rename, flush the directory, write the ledger, remove the state, in this order.

So a file that has been given its name here is never wrong or short, whenever the power fails. The parts were proven
before (`finished/proof.py`). Parts that are ready together are committed together, because three flushes for every tiny
file would limit a slow disk to 30 files a second. All of it runs in worker threads. `request` is one proven part on its
way, `committer` the order of the steps, `durable` the flush of the bytes, `together` of those of many small files.
"""

from bulkspider.disk.commit.committer import GROUP_MAX_FILES, Committer, publish
from bulkspider.disk.commit.durable import Flusher
from bulkspider.disk.commit.request import CommitRequest, LineTaker, commit_request, remote_time_of
from bulkspider.disk.commit.together import FilesystemFlush

__all__ = [
    "GROUP_MAX_FILES",
    "CommitRequest",
    "Committer",
    "FilesystemFlush",
    "Flusher",
    "LineTaker",
    "commit_request",
    "publish",
    "remote_time_of",
]
