"""The text of a checksum file (SHA256SUMS, MD5SUMS, …): which hash it states for which name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bulkspider.entries.names import EntryError
from bulkspider.errors import ListError, Problem
from bulkspider.protocol.digests import ALGORITHMS
from bulkspider.regex import regex

_GNU = regex(r"(?P<hash>[0-9A-Fa-f]{8,})(?:  | \*|[ \t]+)(?P<name>.+)")
_BSD = regex(r"(?P<tag>[A-Za-z0-9/-]+) ?\((?P<name>.+)\) ?= ?(?P<hash>[0-9A-Fa-f]+)")
_ESCAPE = regex(r"\\([\\nr])")
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_BY_DIGITS = {2 * length: algorithm for algorithm, length in reversed(list(ALGORITHMS.items()))}
# Other hashes of the same length as ours; b2sum and b3sum write them in plain GNU lines.
_LOOKALIKE = regex(r"b2sum|b3sum|blake|sha3|shake|sm3")


def parse_sums(lines: Iterable[str], algorithm_hint: str | None, where: str) -> dict[str, tuple[str, str]]:
    """Name -> (algorithm, lower-case hex), the strongest one if a name has several.

    Understands what the GNU tools write (`HASH  name`, `HASH *name`, a leading backslash for escaped names) and the
    tagged lines of BSD and `openssl dgst`. Blank lines and `#` comments pass; a leading `./` is dropped.
    algorithm_hint: the file's name or an algorithm; where it says nothing, the length of each hash does.
    where: what the lines were read from, for messages. Raises ListError with every bad line, counted from 1.
    """
    default = default_algorithm(algorithm_hint or "")
    sums: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    unknown: dict[str, Problem] = {}  # harmless if another line has a hash we know for the same name
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip("\ufeff").rstrip("\r\n")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, algorithm, digest = parse_sum(line, default)
        except EntryError as error:
            problems.append(Problem(where, number, error.what, error.cure))
            continue
        if algorithm not in ALGORITHMS:
            what = f"unknown kind of hash {algorithm}"
            unknown.setdefault(name, Problem(where, number, what, f"use one of {', '.join(ALGORITHMS)}"))
        elif sums.setdefault(name, {}).setdefault(algorithm, digest) != digest:
            what = f"a second, different {algorithm} for {name!r}"
            problems.append(Problem(where, number, what, "keep the right one"))
    problems += [problem for name, problem in unknown.items() if name not in sums]
    if problems:
        raise ListError(f"the checksum file {where} cannot be used", sorted(problems, key=lambda problem: problem.line))
    return {name: next((a, found[a]) for a in ALGORITHMS if a in found) for name, found in sums.items()}


def default_algorithm(hint: str) -> str:
    """What the name of a checksum file says about the hashes in it, empty when it says nothing."""
    hint = _plain(hint.rpartition("/")[2])
    return hint if _LOOKALIKE.search(hint) else next((a for a in ALGORITHMS if a in hint), "")


def parse_sum(line: str, default: str = "") -> tuple[str, str, str]:
    """(name, algorithm, lower-case hex) of one line. An algorithm that is none of ours is named as the file names it.
    default: what a line without one means. Raises EntryError."""
    escaped = line.startswith("\\")
    match = _GNU.fullmatch(line[escaped:]) or _BSD.fullmatch(line[escaped:])
    if match is None:
        raise EntryError("not a checksum line", "write `HASH  name`, as sha256sum does")
    name, digest, tag = match["name"], match["hash"].lower(), match.groupdict().get("tag")
    name = _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], name) if escaped else name
    name = name.removeprefix("./")
    algorithm = _plain(tag) if tag else default or _BY_DIGITS.get(len(digest), "")
    if algorithm not in ALGORITHMS:
        return name, tag or default or f"with {len(digest)} digits", digest
    if len(digest) != 2 * ALGORITHMS[algorithm]:
        what = f"a {algorithm} hash with {len(digest)} digits"
        raise EntryError(what, f"it must have {2 * ALGORITHMS[algorithm]}", name)
    return name, algorithm, digest


def _plain(text: str) -> str:
    """`SHA-256`, `SHA2-256` and `sha256` are one."""
    return re.sub(r"sha2(256|512)", r"sha\1", text.lower().replace("-", ""))
