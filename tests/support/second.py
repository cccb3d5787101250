"""Two processes also for short lists: the environment in which a crawl starts its second process early."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SABOTAGE = Path(__file__).parent / "sabotage"


def two_processes(files: int = 8, **sabotage: Any) -> Mapping[str, str]:
    """From this many entries on. sabotage: more of what `sabotage/sitecustomize.py` does."""
    changed = {"bulkspider.small.sharing:SECOND_FROM_ENTRIES": files, **sabotage.pop("set", {})}
    return {"PYTHONPATH": str(SABOTAGE), "SABOTAGE": json.dumps({**sabotage, "set": changed})}
