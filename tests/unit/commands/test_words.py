"""Options of other tools, and completion in a real shell."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
from contextlib import redirect_stdout

import pytest
from scrapy.cmdline import execute
from scrapy.settings import Settings

from bulkspider.commands.bulk import Command
from bulkspider.commands.words.foreign import ROWS, advice
from support.readme import ROOT


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command = Command()
    command.settings = Settings()
    command.add_options(parser)
    return parser


def completion_of(shell: str) -> str:
    """What the command prints."""
    with pytest.raises(SystemExit) as ended, redirect_stdout(io.StringIO()) as out:
        execute(["scrapy", "bulk", "--completion", shell], Settings())
    assert not ended.value.code
    return out.getvalue()


def test_the_documents_and_the_message_have_one_table() -> None:
    text = (ROOT / "docs/command.md").read_text(encoding="utf-8")
    section = text.partition("## Coming from aria2, wget, curl, rclone\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {row.there} | {row.here} |" for row in ROWS]


def test_no_option_is_in_a_row_twice_or_ours(parser: argparse.ArgumentParser) -> None:
    options = [option for row in ROWS for option in row.options]
    ours = {
        word
        for line in parser.format_help().splitlines()
        if line[:3] == "  -"
        for word in line.replace(",", " ").split()
    }
    assert all(len(row.options) == len(set(row.options)) for row in ROWS)
    assert {option for option in options if option in ours} == set()


@pytest.mark.parametrize(
    ("option", "here"),
    [
        ("--silent", "-q (failures alone)"),
        ("-k", "for aria2c -x N -s N: --segments N; for --no-check-certificate, curl -k: -s DOWNLOAD_VERIFY"),
        ("-i", "for aria2c -i FILE: scrapy bulk FILE --format aria2; for wget -i FILE: "),
        ("-c", "the same command again continues"),
        ("-x", "--segments N"),
        ("-x16", "--segments N"),
        ("--retry", "BULK_RETRY_TIMES"),
        ("--input-file", "--format urls"),
        ("-d", "-o DIR"),
        ("--max-concurrent-downloads", "-j N"),
        ("--bwlimit", "--rate 20M"),
        ("--unheard-of", ""),
        ("-xyz", ""),
    ],
)
def test_advice(option: str, here: str) -> None:
    told = advice(option)
    assert (here in told) if here else told == ""
    assert "`" not in told


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["bulk", "--dr"], ["--dry-run"]),
        (["bulk", "list", "--rep"], ["--report"]),
        (["bulk", "--order", "s"], ["smallest"]),
        (["bulk", "--names", ""], ["last", "path"]),
        (["bulk", "-o", "fol"], ["folder"]),
        (["bulk", "fi"], ["file.txt"]),
        (["bulk", "--sums", "f"], ["file.txt", "folder"]),
        (["bulk", "--limit", ""], []),
        (["crawl", "--dr"], []),
        (["bu"], []),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(
    shell: str,
    words: list[str],
    offered: list[str],
    parser: argparse.ArgumentParser,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    folder = tmp_path_factory.mktemp("shell")
    (folder / "folder").mkdir()
    (folder / "file.txt").touch()
    arguments = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=(scrapy {arguments}); COMP_CWORD={len(words)}; _bulkspider; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    if shell == "zsh":
        # Arrays of bash count from 0.
        ask = f"compinit -u 2>/dev/null; setopt KSH_ARRAYS SH_WORD_SPLIT; {ask}"
    text = completion_of(shell)
    command = [shell, "-c", ("autoload -U compinit; compinit -u; " if shell == "zsh" else "") + text + ask]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    # zsh chooses among them itself.
    found = [word for word in done.stdout.split() if shell == "bash" or word.startswith(words[-1])]
    assert sorted(found) == sorted(offered)
    assert done.stderr == ""
