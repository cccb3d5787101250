"""`python guided.py TARGET SECONDS`: fuzzes a target of `fuzzed.py`, guided by the coverage of bulkspider.

Needs atheris, which is no dependency of the tests: it has wheels for some systems only.
"""

from __future__ import annotations

import logging
import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["bulkspider"]):
    from support.fuzzed import FOLDER, TARGETS


def main() -> None:
    logging.disable(logging.CRITICAL)
    name, seconds = sys.argv[1:3]
    function, samples = TARGETS[name]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(samples):
        (corpus / str(number)).write_bytes(sample)

    def run(data: bytes) -> None:
        function(data)

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-timeout=10", str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
