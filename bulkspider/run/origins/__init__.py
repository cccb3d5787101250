"""The hosts of a crawl: `origin` is one host:port and answers all questions about it, `origins` are all of them;
`outcome` is how an attempt there ended.
"""
