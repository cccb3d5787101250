"""Reporting: shows a run to people and to other programs.

`progress` is the Scrapy extension. `snapshot` gives the state of the run as data; `display` makes lines of it and
`terminal` draws them. `summary` is the text at the end, `page/` the HTML report, `metrics` and `metricserver` the
numbers for Prometheus.
"""
