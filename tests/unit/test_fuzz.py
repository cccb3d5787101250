"""Nothing that others write makes a reader fail in another way than it promises.

Short: mutations of samples, drawn by hypothesis. `--long`: many more of them, and guided by coverage where atheris is
installed (`pip install atheris`); how many seconds for each target FUZZ_SECONDS says, 20 without it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support import fuzzed
from support.fuzzed import TARGETS

SHORT, LONG = 25, 5_000
# What parsers trip over.
WORDS = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"\r", b"\n", b"\t", b" ", b",", b";", b'"', b"'", b"\\", b"=", b":", b"/"),
    *(b"..", b"~", b"-", b"%2e%2e%2f", b"%00", b"http://", b"https://[::1/", b"{", b"}", b"[", b"]", b"<", b">", b"&#0;", b"<!DOCTYPE x>"),
    *(b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 5000, b"[" * 2000, b"1e-5"),
    *("\u202e".encode(), "\ud800".encode("utf-8", "surrogatepass"), "é".encode(), "İ".encode()),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """A sample with some places cut out, doubled, or replaced by something."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(data)))
        end = min(len(data), first + draw(st.integers(0, 12)))
        put = draw(st.one_of(st.sampled_from(WORDS), st.binary(max_size=4), st.just(data[first:end] * 2)))
        data = data[:first] + put + data[end:]
    return data


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_make_a_reader_fail_otherwise_than_it_promises(name: str, pytestconfig: pytest.Config) -> None:
    function, samples = TARGETS[name]
    many = LONG if pytestconfig.getoption("--long") else SHORT

    @settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck), derandomize=many == SHORT, phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(st.one_of(mutated(samples), st.binary(max_size=64)))
    def fuzz(data: bytes) -> None:
        function(data)

    for sample in samples:
        function(sample)
    fuzz()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    if not pytestconfig.getoption("--long"):
        pytest.skip("takes --long")
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (it has wheels for some systems only)")
    seconds = os.environ.get("FUZZ_SECONDS", "20")
    done = subprocess.run(
        [sys.executable, str(Path(fuzzed.__file__).with_name("guided.py")), name, seconds],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fuzzed.__file__).parents[1])},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    print(f"{name}: {runs[1] if runs else '?'} cases in {seconds} s")
