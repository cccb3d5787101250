"""Commands of bulkspider: `bulk`, `bulkqueue` and `list` work anywhere (entry points), those in `project/` only in this
project. `words/` are the options.

`startup` runs the spider, with what `process` changes in our own process and `brief` makes shorter. `dryrun` is the dry
run, `survey` its result.
"""
