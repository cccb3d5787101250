"""Components: what Scrapy loads by name: the download handler, the item pipelines, a middleware, feed exporters.

`meta` reads `request.meta["bulk"]` of other spiders' requests.
"""
