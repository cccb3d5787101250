"""Spiders: the spider `bulk`; the add-on puts this package into SPIDER_MODULES.

`bulk` is the spider. `arguments` checks its arguments, the list and the folder before the start, `adjust` changes
Scrapy's settings for it, `listjob` is the work of one crawl. `frontend` makes its Requests and takes their outcomes
back; `rows` makes its items, `passed` follows them through the item pipelines, `shortcut` spares them Scrapy's
machinery where nobody would see them there; `given` reads entries from a program.
"""
