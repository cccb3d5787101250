"""Files that a run reads and that lie in its output folder: no download may take their place.

A list that was replaced by one of its own files would be read by the next run as its list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bulkspider.entries.names import OWN_SUFFIXES, fold
from bulkspider.options import Options


def input_names(root: str, path: str | None, arguments: Mapping[str, str], options: Options) -> dict[str, str]:
    """Folded name of an entry -> the file that it would replace, for messages. path: of the list, None for none."""
    files = {
        "the list": path,
        "the checksums": arguments.get("sums"),
        "the signature": arguments.get("sums_sig"),
        "the keys": arguments.get("keyring"),
        "the table of hosts": options.hosts,
        "the netrc file": os.environ.get("NETRC") or os.path.expanduser("~/.netrc"),
    }
    names: dict[str, str] = {}
    for what, file in files.items():
        for name in _names_below(root, file):
            names[name] = f"{what} {file}"
            for suffix in OWN_SUFFIXES:
                # Its unfinished file would be there.
                if name.endswith(suffix):
                    names[name.removesuffix(suffix)] = f"{what} {file}"
    return names


def _names_below(root: str, file: str | None) -> set[str]:
    """As it is called, and as it is called in truth: either may be a link."""
    if not file or not os.path.exists(file):
        return set()
    here = {(os.path.abspath(root), os.path.abspath(file)), (os.path.realpath(root), os.path.realpath(file))}
    # The folder may be called by a link, and the file not.
    here.add((os.path.realpath(root), os.path.join(os.path.realpath(os.path.dirname(file)), os.path.basename(file))))
    found = (os.path.relpath(path, folder) for folder, path in here)
    return {fold(name) for name in found if name.split(os.sep)[0] != os.pardir}
