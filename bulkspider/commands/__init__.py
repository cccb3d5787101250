"""Commands of bulkspider. `bulk` works anywhere (an entry point); those in `project` only in this project."""
