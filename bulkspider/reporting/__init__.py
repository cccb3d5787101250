"""Reporting: what a person or a machine sees of a run.

`progress` is the Scrapy extension. `snapshot` gives the state of the run as data; `display` makes lines of it and
`terminal` draws them. `summary` is the text at the end, `page` the HTML report, `metrics` and `metricserver` the
numbers for Prometheus.
"""
