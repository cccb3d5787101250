"""Components: what Scrapy loads by name.

`handler` is the download handler, `pipeline` finishes the files of the spider `bulk`, `filespipeline` those of items.
`meta` reads `request.meta["bulk"]` of other spiders' requests, `identity` says which file such a request is for.
`middleware` has the middlewares for these requests, `cookies` the one for cookies, `exporters` writes reports.
"""
