"""COMMANDS_MODULE of the stand-alone project: `crawl` with our exit status, and `demo`."""
