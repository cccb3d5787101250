"""Text for people: what others wrote, made safe to show, and the word that a wrong one is nearest to.

A name, a header or an error's text may hold characters that a terminal obeys (ESC, NUL), that change the reading order
(bidirectional controls), or that are invisible (zero-width characters). Wherever such text is shown it goes through
`visible`, which writes each of them as an escape, as in `\\x1b` or `\\u202e`. Pure text: this module knows neither logs
nor terminals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bulkspider.regex import regex

# C0, DEL and C1; they move a terminal's cursor, begin its commands, or end a line.
CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# Unicode's Default_Ignorable_Code_Point (it contains all bidirectional controls and zero-width characters) and the
# interlinear annotations; without the variation selectors, which only choose the form of the character before them.
UNSEEN = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_UNSAFE = regex(rf"[{CONTROL}{UNSEEN}\ud800-\udfff]")
_UNSAFE_IN_LINES = regex(rf"(?![\n\t])[{CONTROL}{UNSEEN}\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` in one line, with every control and unseen character escaped."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same for text of several lines: newlines and TABs stay."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE_IN_LINES.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the most similar known name, or an empty string."""
    import difflib  # only for an error

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
