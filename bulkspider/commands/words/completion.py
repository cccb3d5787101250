"""Shell completion for `scrapy bulk`, made from the options themselves.

The script is for bash; zsh reads it by its own `bashcompinit`. After an option with fixed values it offers these, after
one that takes a file or folder it offers files or folders, and otherwise options and lists. Other scrapy commands keep
the shell's own completion.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable

SHELLS = ("bash", "zsh")
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
_bulkspider() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    [ "${{COMP_WORDS[1]}}" = bulk ] && [ "$COMP_CWORD" -gt 1 ] || return 0
    case $before in
{cases}
    esac
    case $word in
        -*) COMPREPLY=($(compgen -W {options} -- "$word")) ;;
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -o default -F _bulkspider scrapy
"""


def script(actions: Iterable[argparse.Action], others: Iterable[str], shell: str) -> str:
    """actions: our options. others: names of Scrapy's. shell: one of SHELLS."""
    cases, options = [], set(others)
    for action in actions:
        options.update(action.option_strings)
        if action.nargs == 0:
            continue
        reply = f'COMPREPLY=($(compgen {_kind(action)} -- "$word")); return 0 ;;'
        cases.append(f"        {'|'.join(action.option_strings)}) {reply}")
    text = _SCRIPT.format(cases="\n".join(cases), options=_words(sorted(options)))
    return (_ZSH if shell == "zsh" else "") + text


def _kind(action: argparse.Action) -> str:
    """What compgen is to offer for the value of an option."""
    if action.choices is not None:
        return f"-W {_words(map(str, action.choices))}"
    metavar = str(action.metavar or "")
    if metavar == "DIR":
        return "-d"
    return "-f" if metavar.startswith("FILE") else "-W ''"


def _words(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))
