"""COMMANDS_MODULE of the stand-alone project: `crawl` with an honest exit status, and `demo`."""
