"""`python -m scrapy …` as a process of its own, without the half second of imports that every start costs.

A server imports Scrapy, Twisted and bulkspider once for each test process, and forks for each command. What is forked
is what a user starts: a process with its own arguments, environment, folder, signals and reactor, a child of the test
process, which waits for it and kills it as any other. Only the imports were made before. Where the interpreter is to
start in another way (PYTHONPATH), the command is started in the ordinary way; so are the demo, `bulkspider.fetch`,
workers of a queue, and all that tests of start-up measure.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# prctl(2): orphans below this process become its children.
PR_SET_CHILD_SUBREAPER = 36
# These are programs of their own, or need an extra.
ELSEWHERE = ("bulkspider.api", "bulkspider.demo", "bulkspider.queue", "bulkspider.reporting.metric")
LARGEST_MESSAGE = 1 << 20
LARGEST_DESCRIPTOR = 100
# Variables that change how an interpreter starts, or what it imports.
OF_THE_INTERPRETER = ("PYTHON", "LD_")
WARNINGS = "PYTHONWARNINGS"
# Before any test has changed it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != WARNINGS}


def is_ordinary(environment: Mapping[str, str]) -> bool:
    """Whether the interpreter would start as the server has."""
    names = {name for name in {*environment, *ENVIRONMENT} if name.startswith(OF_THE_INTERPRETER)}
    return environment.get(WARNINGS) in (None, "default") and all(
        ENVIRONMENT.get(name) == environment.get(name) for name in names - {WARNINGS}
    )


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


class Popen(subprocess.Popen[Any]):
    """As subprocess.Popen, for `[sys.executable, "-m", "scrapy", …]` with `env`, `cwd`, and three standard streams."""

    def _execute_child(self, args: list[str], *others: Any) -> None:  # type: ignore[override]
        _, _, _, _, cwd, environment, _, _, _, stdin_read, stdin, stdout, stdout_write, stderr, stderr_write = others[
            :15
        ]
        if args[1:3] != ["-m", "scrapy"] or not is_ordinary(environment):
            super()._execute_child(args, *others)  # type: ignore[misc]
            return
        streams = [stdin_read, stdout_write, stderr_write if stderr_write != -1 else stdout_write]
        request = {"arguments": args, "environment": dict(environment), "folder": str(cwd), "umask": umask()}
        self.pid = _server().fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(stdin_read, stdin, stdout, stdout_write, stderr, stderr_write)  # type: ignore[attr-defined]


class Server:
    """The client's end of the server."""

    def __init__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_MESSAGE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.warm", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def fork(self, request: Mapping[str, Any], streams: list[int]) -> int:
        """Starts a command; its process id."""
        descriptors = array.array("i", streams)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        self._socket.sendmsg([json.dumps(request, ensure_ascii=True).encode()], rights)
        return int(self._socket.recv(32))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


@functools.cache
def _server() -> Server:
    return Server()


def preload() -> None:
    """Imports what a crawl imports, and no reactor: each command chooses its own."""
    import pkgutil
    from importlib import import_module

    for name in (
        "scrapy.cmdline",
        "scrapy.core.downloader.handlers.http11",
        "scrapy.core.engine",
        "scrapy.core.scheduler",
        "scrapy.extensions.closespider",
        "scrapy.extensions.corestats",
        "scrapy.extensions.feedexport",
        "scrapy.extensions.logstats",
        "scrapy.extensions.memusage",
        "scrapy.pqueues",
        "scrapy.squeues",
        "twisted.internet.asyncioreactor",
        "twisted.internet.endpoints",
        "twisted.internet.ssl",
        "twisted.web.client",
    ):
        import_module(name)
    import bulkspider

    for module in pkgutil.walk_packages(bulkspider.__path__, "bulkspider."):
        if not module.name.startswith(ELSEWHERE):
            import_module(module.name)
    assert "twisted.internet.reactor" not in sys.modules


def serve(server: socket.socket) -> None:
    preload()
    while True:
        message, rights, _, _ = server.recvmsg(LARGEST_MESSAGE, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        if not message:
            return
        streams = array.array("i")
        for _, _, data in rights:
            streams.frombytes(data)
        # By way of a process that ends at once, so that the command is a child of the test process when it is told.
        there, here = os.pipe()
        if (middle := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                server.close()
                become(json.loads(message), list(streams))
                return
            os.write(here, str(pid).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        server.send(os.read(there, 32))
        for descriptor in (there, here, *streams):
            os.close(descriptor)


def become(request: Mapping[str, Any], streams: list[int]) -> None:
    """Makes this process the command."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, LARGEST_DESCRIPTOR)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    signal.set_wakeup_fd(-1)
    if WARNINGS in request["environment"]:
        warnings.simplefilter("default")
    arguments = request["arguments"]
    sys.orig_argv[:] = arguments
    sys.argv[:] = arguments[2:]
    sys.path[0] = request["folder"]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        serve(requests)
    if sys.argv[0] == "scrapy":
        import runpy

        runpy.run_module("scrapy", run_name="__main__", alter_sys=True)
