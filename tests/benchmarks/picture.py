"""Bars beside peers, from the figures that `run.py --json FILE` has written.

    python tests/benchmarks/picture.py FILE... OUT.svg

Each scenario is a group; each program has one bar, its wall time as a multiple of the fastest peer's, and beside it the
seconds and the peak memory. Several files may each have some of the scenarios: the last one that has it counts.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT = 860, 170, 200
BAR, GAP, GROUP, TITLE = 16, 4, 22, 24
# Longer bars are cut off here, and say so.
LONGEST_RATIO = 4.0
OURS, THEIRS, LINE, TEXT, FAINT = "#1f6feb", "#b6bec9", "#57606a", "#1f2328", "#57606a"


def bars_of(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The programs of a scenario that did it, the fastest first."""
    rows = [(name, row) for name, row in found["rows"].items() if row.get("wall_ratio") is not None]
    return sorted(rows, key=lambda each: each[1]["wall_ratio"])


def draw(scenarios: dict[str, dict[str, Any]]) -> str:
    """The picture as SVG."""
    unit = (WIDTH - LEFT - RIGHT) / LONGEST_RATIO
    shapes: list[str] = []
    y = 12
    for found in scenarios.values():
        bars = bars_of(found)
        if not bars:
            continue
        y += TITLE
        shapes.append(f'<text x="12" y="{y - 8}" font-weight="600">{escape(found["title"])}</text>')
        top = y
        for name, row in bars:
            ratio = row["wall_ratio"]
            width = min(ratio, LONGEST_RATIO) * unit
            color = OURS if name == "bulkspider" else THEIRS
            weight = ' font-weight="600"' if name == "bulkspider" else ""
            middle = y + BAR - 4
            shapes.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end"{weight}>{escape(name)}</text>')
            shapes.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{color}"/>')
            more = "… " if ratio > LONGEST_RATIO else ""
            note = f"{more}{ratio:.2f} · {row['wall']:.1f} s · {row['peak'] / 1e6:.0f} MB"
            shapes.append(f'<text x="{LEFT + width + 6:.1f}" y="{middle}" fill="{FAINT}"{weight}>{note}</text>')
            y += BAR + GAP
        one = LEFT + unit
        shapes.append(f'<line x1="{one}" x2="{one}" y1="{top - 3}" y2="{y}" stroke="{LINE}" stroke-dasharray="2 3"/>')
        y += GROUP
    shapes.append(f'<text x="12" y="{y}" fill="{FAINT}">wall time; the dashed line is the fastest of the peers</text>')
    height = y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__)
        return 2
    *figures, picture = arguments
    scenarios: dict[str, dict[str, Any]] = {}
    for path in figures:
        scenarios |= json.loads(Path(path).read_text())["scenarios"]
    Path(picture).write_text(draw(scenarios), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
