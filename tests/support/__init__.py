"""What several tests need: servers, other versions of this program, records of what a crawl did."""
