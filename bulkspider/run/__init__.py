"""Run: what all entries of a crawl share.

`run` is the Scrapy extension that owns the other objects. `folders` are the output folders, `downloads` the entries
under way, `download` is one of them. `row` is what is reported of an entry. `turns` lets one entry at a time use a
path. `origins/` decides when and how each host may be asked. `outcomes` counts how the entries ended. `stopping` says
whether the run is ending.
"""
