"""Hosts: what is known of a host beside its files: whether it works, how many connections it takes, how much it gives
in one answer, how often it wants to be asked.

`outage.py` judges whether it works and when it is asked again, `crowd.py` how many connections are right, and
`budget.py` what one entry has spent by its own failures; `run/origins.py` puts them together to an Origin.
`pieces.py` finds out how large one answer may be, `limits.py` reads what an answer says about rate limits, `known.toml`
and `profiles.py` are what known hosts ask for, `record.py` keeps what a host did in this run, `identity.py` says to all
of them who we are. Pure: neither Twisted nor Scrapy.
"""
