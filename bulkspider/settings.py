"""Settings of the stand-alone project: the add-on, plus defaults for a crawl that only fetches large files.

Every one of them may be overridden on the command line (`-s NAME=VALUE`); docs/settings.md, "Tuning", explains how.
"""

from bulkspider.hosts.identity import user_agent

BOT_NAME = "bulkspider"
USER_AGENT = user_agent()
ADDONS = {"bulkspider.Addon": 500}
# The add-on would add it for a crawl; this is for `scrapy list`.
SPIDER_MODULES = ["bulkspider.spiders"]
# A `scrapy crawl` that ends with our exit status. Only in this project: an entry point would replace the command
# everywhere.
COMMANDS_MODULE = "bulkspider.commands.project"

# Eight large files at once fill most links; four from one host is what most hosts bear without complaint.
CONCURRENT_REQUESTS = 8
CONCURRENT_REQUESTS_PER_DOMAIN = 4

# The list says what to fetch, explicitly.
ROBOTSTXT_OBEY = False
# Scrapy's default is to accept any certificate.
DOWNLOAD_VERIFY_CERTIFICATES = True

# IPv6 and IPv4, whichever answers; and a fresh look-up for every connection of a run that lasts for days.
TWISTED_DNS_RESOLVER = "bulkspider.resolver.FreshResolver"

# A person reads this log: our own lines, not the crawler's housekeeping.
LOG_LEVEL = "INFO"
LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
LOG_DATEFORMAT = "%Y-%m-%d %H:%M:%S"
STATS_DUMP = False
TELNETCONSOLE_ENABLED = False
# Since Scrapy 2.19: executes code that arrives over HTTP.
REMOTE_CONTROL_ENABLED = False
# It logs pages and items per minute; our own progress line has bytes.
EXTENSIONS = {"scrapy.extensions.logstats.LogStats": None}
