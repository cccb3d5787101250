"""A queue that many machines share, on Redis Streams. Needs `bulkspider[redis]`; nothing else here imports it."""
