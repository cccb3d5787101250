"""Spiders of bulkspider; the add-on puts this package into SPIDER_MODULES."""
