"""Options of aria2, wget, curl and rclone, and what to write instead of them.

The table stands in docs/command.md as well ("Coming from aria2, wget, curl, rclone"; a test holds the two equal). A
user who types such an option sees its row in the message.
"""

from __future__ import annotations

import re

from msgspec import Struct


class ForeignOption(Struct, frozen=True):
    """there, here: as in the documents (Markdown). options: the words that this row answers, where they are none of
    ours; one that means different things to these programs is in several rows."""

    there: str
    here: str
    options: tuple[str, ...] = ()


ROWS = (
    ForeignOption(
        "`aria2c URL`, `wget URL`, `curl -O URL`", "`scrapy bulk -o . URL`", ("--remote-name", "--remote-name-all")
    ),
    ForeignOption("`aria2c -i FILE`", "`scrapy bulk FILE --format aria2`", ("-i", "--input-file")),
    ForeignOption(
        "`wget -i FILE`",
        "`scrapy bulk FILE --format urls` (a URL per line; `-B URL` is `--base URL`)",
        ("-i", "--input-file", "-B", "--config"),
    ),
    ForeignOption(
        "`wget -r -np -A GLOB -R GLOB -l N URL`",
        "`scrapy bulk URL --recurse --accept GLOB --reject GLOB --depth N`",
        ("-r", "--recursive", "-np", "--no-parent", "-m", "--mirror", "-A", "-R", "-l", "--level"),
    ),
    ForeignOption(
        "`wget -x -nH --cut-dirs=N`",
        "`--names path --cut N`",
        ("-x", "--cut-dirs", "-nH", "-nd", "--no-host-directories", "--force-directories", "--no-directories"),
    ),
    ForeignOption(
        "`rclone copyurl --urls FILE.csv DIR`",
        "`scrapy bulk FILE.csv --format csv --columns url,name -o DIR`",
        ("--urls", "--auto-filename"),
    ),
    ForeignOption(
        "`aria2c -R`, `curl -R` (the server's time)",
        "`-s BULK_REMOTE_TIME=1`",
        ("-R", "--remote-time", "--timestamping", "--use-server-timestamps"),
    ),
    ForeignOption(
        "`aria2c -d DIR`, `wget -P DIR`, `curl --output-dir DIR`",
        "`-o DIR`",
        ("-d", "--dir", "-P", "--directory-prefix", "--output-dir", "--output-document", "--out"),
    ),
    ForeignOption(
        "`aria2c -c`, `wget -c`, `curl -C -`, `--save-session`",
        "nothing: the same command again continues",
        ("-c", "-C", "--continue", "--continue-at", "--save-session", "--save-session-interval", "--always-resume"),
    ),
    ForeignOption(
        "`aria2c -j N`, `curl -Z --parallel-max N`, `rclone --transfers N`",
        "`-j N`",
        ("--max-concurrent-downloads", "-Z", "--parallel", "--parallel-max", "--transfers", "--checkers"),
    ),
    ForeignOption(
        "`aria2c -x N -s N`",
        "`--segments N`",
        ("-x", "--max-connection-per-server", "--split", "--min-split-size", "-k", "--multi-thread-streams"),
    ),
    ForeignOption(
        "`aria2c --max-overall-download-limit=20M`, `wget --limit-rate=20m`, `curl --limit-rate 20M` (of each), "
        "`rclone --bwlimit 20M`",
        "`--rate 20M` (of all)",
        ("--max-overall-download-limit", "--max-download-limit", "--limit-rate", "--bwlimit"),
    ),
    ForeignOption("`aria2c --checksum=sha-256=HEX`", "`sha256=HEX` in the list, or `--sums FILE`", ("--checksum",)),
    ForeignOption("`aria2c -V`, `rclone check`", "`--verify`", ("-V", "--check-integrity", "--hash-check-only")),
    ForeignOption("`aria2c --dry-run`, `wget --spider`", "`--dry-run`", ("--spider", "-I", "--head", "-n")),
    ForeignOption(
        "`--header`, `curl -H`, `--referer`, `-U`",
        '`"header:Name=Value"` in the list; `-s USER_AGENT=…`',
        ("--header", "-H", "--referer", "-e", "-U", "--user-agent"),
    ),
    ForeignOption(
        "`--user`, `--password`, `--http-user`, `-u`",
        "`https://user:password@…` in the list, or netrc",
        ("--user", "--password", "--http-user", "--http-passwd", "--http-password", "-u", "-n", "--netrc"),
    ),
    ForeignOption(
        "`wget -t N`, `aria2c -m N --retry-wait=S`, `curl --retry N`",
        "`-s BULK_RETRY_TIMES=N -s BULK_RETRY_DELAY=S`",
        ("-t", "-m", "--tries", "--max-tries", "--retry", "--retries", "--retry-wait", "--retry-delay", "--waitretry"),
    ),
    ForeignOption(
        "`aria2c -t S`, `wget -T S`, `curl -Y -y`",
        "`-s BULK_STALL_TIMEOUT=S -s BULK_MIN_SPEED=N`; there is no limit on the whole time",
        ("-t", "-T", "--timeout", "-Y", "-y", "--speed-limit", "--speed-time", "--lowest-speed-limit", "--max-time"),
    ),
    ForeignOption(
        "`aria2c --file-allocation=falloc`", "`-s BULK_PREALLOCATE=1`", ("--file-allocation", "--multi-thread-cutoff")
    ),
    ForeignOption(
        "`wget -nc`, `aria2c --auto-file-renaming`",
        "nothing: what is proven is not asked for again, what is foreign is kept as `<name>.old`",
        ("-nc", "--no-clobber", "--auto-file-renaming", "--allow-overwrite", "--ignore-existing", "--no-traverse"),
    ),
    ForeignOption(
        "`--no-check-certificate`, `curl -k`",
        "`-s DOWNLOAD_VERIFY_CERTIFICATES=False`",
        ("-k", "--no-check-certificate", "--check-certificate", "--insecure"),
    ),
    ForeignOption(
        "`-s` of curl, `wget -nv`, `-P` of rclone",
        "`-q` (failures alone), `-v` (all), `-s BULK_PROGRESS=log` (a line a minute)",
        ("-P", "--silent", "--progress", "--no-verbose", "-nv", "--console-log-level", "--no-progress-meter"),
    ),
)

_BY_OPTION: dict[str, list[ForeignOption]] = {}
for _row in ROWS:
    for _option in _row.options:
        _BY_OPTION.setdefault(_option, []).append(_row)


def advice(option: str) -> str:
    """For a message: what to write instead of an option of another program; empty when none of them has it."""
    # `-x16` is `-x 16`.
    rows = _BY_OPTION.get(option) or (_BY_OPTION.get(option[:2]) if re.fullmatch(r"-\w\d+\w?", option) else None)
    if not rows:
        return ""
    told = [f"here: {row.here}" if len(rows) == 1 else f"for {row.there}: {row.here}" for row in rows]
    return "; ".join(told).replace("`", "")
