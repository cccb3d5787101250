"""Hosts: what is known of a host: whether it works, how many connections it accepts, how much it sends in one answer,
how often it may be asked.

`outage.py` judges whether it works and when it is asked again, `crowd.py` how many connections are right, and
`budget.py` what one entry has spent by its own failures; `run/origins/` puts them together to an Origin. `pieces.py`
finds out how large one answer may be, `limits.py` reads what an answer says about rate limits, `known.toml` and
`profiles.py` are the rules of known hosts, `record.py` keeps what a host did in this run, `identity.py` makes our
User-Agent. Pure: neither Twisted nor Scrapy.
"""
