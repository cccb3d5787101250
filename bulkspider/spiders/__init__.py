"""Spiders: the spider `bulk`; the add-on puts this package into SPIDER_MODULES.

`bulk` is the spider, `arguments` all that can be wrong before its start, `adjust` what it changes in Scrapy's settings,
`listjob` what one crawl of it works through. `door` makes its Requests and takes back what became of them; `rows` makes
its items.
"""
