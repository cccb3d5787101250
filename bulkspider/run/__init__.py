"""Run: what all entries of a crawl share.

`run` is the Scrapy extension that owns the parts: `folders` are the output folders, `downloads` the entries under way
(`download` is one of them), `turns` says whose turn it is at a path, `origins` what is known of each host and owed to
it, `outcomes` counts what became of the entries, `stopping` says whether the run is to end.
"""
