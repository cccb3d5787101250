"""Breaks threads, memory and system calls of a crawl, as an environment variable says; put on PYTHONPATH by tests.

SABOTAGE is a JSON object: "refuse": name of threads (the beginning is enough, "" for all) that cannot be started,
after "after" of them; "hang": a function's name ("module:Class.name") that never comes back; "raise": {function: name
of an exception}. "set": {"module:name": value}. "clock": the machine's clock is so many seconds fast. "outside":
true, whoever asks for an address that is not on this machine waits for ever, as behind a firewall that swallows
packets, and is noted.
"""

import builtins
import importlib
import importlib.abc
import json
import os
import sys
import threading

plan = json.loads(os.environ.get("SABOTAGE", "{}"))
log = os.environ.get("SABOTAGE_LOG")


def note(what):
    if log:
        with open(log, "a") as file:
            file.write(what + "\n")


class Ended(SystemExit):
    """What ends a thread from outside."""


def refuse_threads(name, after):
    start, count = threading.Thread.start, [0]

    def refuse(self):
        if self.name.startswith(name):
            count[0] += 1
            if count[0] > after:
                note(f"refused {self.name}")
                raise RuntimeError("can't start new thread")
        start(self)

    threading.Thread.start = refuse


def never(*args, **kwargs):
    note("hangs")
    # As a call of the system would: signals are handled, and then it goes on.
    while True:
        threading.Event().wait(3600)


def raises(name):
    def broken(*args, **kwargs):
        note(f"raises {name}")
        raise {"Ended": Ended}.get(name) or getattr(builtins, name)

    return broken


def patch(module, path, make):
    *owners, last = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, last, make)


class Patcher(importlib.abc.MetaPathFinder):
    """Patches a module right after it was imported."""

    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path, target=None):
        if name not in self.patches:
            return None
        patches = self.patches.pop(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            for where, what in patches:
                patch(module, where, what)

        spec.loader.exec_module = exec_module
        return spec


patches = {}
for path in [plan["hang"]] if "hang" in plan else []:
    module, _, where = path.partition(":")
    patches.setdefault(module, []).append((where, never))
for path, error in plan.get("raise", {}).items():
    module, _, where = path.partition(":")
    patches.setdefault(module, []).append((where, raises(error)))
for path, value in plan.get("set", {}).items():
    module, _, where = path.partition(":")
    patches.setdefault(module, []).append((where, value))
if patches:
    import importlib.util

    sys.meta_path.insert(0, Patcher(patches))
if plan.get("outside"):
    import socket

    def only_here(name, function, host_of):
        def asked(*args, **kwargs):
            host = host_of(*args)
            host = host.decode() if isinstance(host, bytes) else host
            if host is not None and not str(host).startswith(("127.", "0.0.0.0", "localhost", "::1", "/")):
                note(f"{name} {host}")
                never()
            return function(*args, **kwargs)

        return asked

    for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getfqdn"):
        setattr(socket, name, only_here(name, getattr(socket, name), lambda *args: args[0] if args else "this machine"))
    socket.socket.connect = only_here(
        "connect", socket.socket.connect, lambda self, address: address[0] if isinstance(address, tuple) else None
    )
if "refuse" in plan:
    refuse_threads(plan["refuse"], plan.get("after", 0))
if "clock" in plan:
    import time

    of_machine, of_machine_ns = time.time, time.time_ns
    time.time = lambda: of_machine() + plan["clock"]
    time.time_ns = lambda: of_machine_ns() + plan["clock"] * 1_000_000_000
