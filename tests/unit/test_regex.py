"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import re

import pytest

from bulkspider.regex import regex


def test_it_does_what_a_compiled_one_does() -> None:
    lazy, compiled = regex("(?P<letter>[a-z])+", re.IGNORECASE), re.compile("(?P<letter>[a-z])+", re.IGNORECASE)
    found = lazy.fullmatch("Ab")
    assert found is not None
    assert found["letter"] == "b"
    assert lazy.fullmatch("a1") is None
    assert lazy.sub("-", "ab1") == compiled.sub("-", "ab1")
    assert (lazy.pattern, lazy.groupindex) == (compiled.pattern, compiled.groupindex)


def test_a_mistake_in_it_is_found_when_it_is_used() -> None:
    wrong = regex("(")
    with pytest.raises(re.error):
        wrong.match("x")
