"""Writes the manifest of a run in worker threads: now and then during the run, and at its end (`manifests.py`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred

from bulkspider.errors import DiskError, Stopped
from bulkspider.handover.manifests import Manifest
from bulkspider.pumps.threads import Threads

logger = logging.getLogger(__name__)


class ManifestWriter:
    """Of one run. stop: the run is being stopped. shared: others write to the ledgers of the folder, too."""

    def __init__(self, manifest: Manifest, threads: Threads, stop: Callable[[], bool], *, shared: bool) -> None:
        self._manifest = manifest
        self._threads = threads
        self._stop = stop
        self._shared = shared
        self._writing: Deferred[bool] | None = None

    def begin_if_due(self) -> None:
        """Begins to write it, during the transfers."""
        if self._writing is None and time.monotonic() >= self._manifest.due:
            self._writing = Deferred.fromCoroutine(self._write())

    async def finish(self) -> bool:
        """Writes it once more. False when that was not possible."""
        if self._writing is not None:
            await self._writing
        return await self._write()

    async def _write(self) -> bool:
        task = partial(self._manifest.write, shared=self._shared)
        try:
            await self._threads.in_thread(task, self._stop, hashing=True)
        except Stopped:
            pass  # the manifest then has the files that were hashed before
        except DiskError as error:
            logger.error("%s", error)
            return False
        finally:
            self._writing = None
        return True
