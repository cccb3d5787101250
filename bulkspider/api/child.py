"""The caller's side of the child process in which a crawl runs.

What goes over the pipes is JSON, a message a line. To the child: a head (settings, `sys.path`, folders), then a row for
each entry, then an empty line; afterwards its standard input only stays open. When it is closed the crawl ends, also if
the caller was killed, because the kernel closes its descriptors. From the child, each message is an object with one
key: `log`, `progress`, `row`, and at last `refused` or `ended`.

Nothing of the caller's process is changed, and no other thread, handler or reactor is needed: reading blocks.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import bulkspider

# The child ends by itself 60 seconds after it was told to, whatever hangs (`commands/process.py`).
STOP_SECONDS = 75.0
# The folder that contains the package, so that `python -m` finds it even if the caller has changed its own `sys.path`.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(bulkspider.__file__)))


class Child:
    """A crawl under way. A context manager: at its end the child has ended, too. `stop` may be called in any thread,
    everything else in the one that made it."""

    def __init__(self) -> None:
        # In a session of its own: Ctrl-C in the terminal goes to the caller only, which then stops the child.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bulkspider.api.crawl"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_HOME,
            start_new_session=True,
        )
        self._closing = threading.Lock()
        self._sending = True

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the child if it has not ended, and waits for its end."""
        assert self._process.stdout is not None
        try:
            self.stop()
            # Its last messages must be read, or it would block.
            reader = threading.Thread(target=self._drain, name="bulkspider-drain", daemon=True)
            reader.start()
            self._process.wait(STOP_SECONDS)
            reader.join()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()

    def _drain(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError):
            while self._process.stdout.read(65536):
                pass

    def stop(self) -> None:
        """The crawl ends as if by SIGTERM: every byte is kept."""
        assert self._process.stdin is not None
        with self._closing, suppress(OSError):
            self._sending = False
            if not self._process.stdin.closed:
                # The raw file: buffered bytes are not sent any more, so that closing does not wait.
                self._process.stdin.raw.close()  # type: ignore[attr-defined]

    def send(self, head: Mapping[str, Any], rows: Iterable[str]) -> None:
        """Sends the head and the entries. rows: a line of JSON for each entry. A child that has ended is no error
        here."""
        assert self._process.stdin is not None
        pipe = self._process.stdin
        try:
            pipe.write(_line(json.dumps(head)))
            for row in rows:
                pipe.write(_line(row))
            pipe.write(b"\n")
            pipe.flush()
        except (OSError, ValueError):
            if not pipe.closed:
                self.stop()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Its messages, until it ends; its log records go to the loggers of the same names in this process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "log" in message:
                name, level, text = message["log"]
                logging.getLogger(name).log(level, "%s", text)
            else:
                yield message

    @property
    def exit_status(self) -> int:
        """Waits for its end; negative: the number of a signal that ended it."""
        return self._process.wait()


def _line(text: str) -> bytes:
    return text.encode() + b"\n"


# Called with the numbers of the run, see `fetch`.
Tell = Callable[[dict[str, Any]], object]
