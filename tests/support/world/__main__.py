"""Runs worlds: see the package."""

from __future__ import annotations

import sys

from support.world.play import run_many, show


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "0-2000"
    first, _, last = wanted.partition("-")
    if not last:
        return show(int(first))
    return run_many(range(int(first), int(last)), shrinks="--shrink" in sys.argv)


sys.exit(main())
