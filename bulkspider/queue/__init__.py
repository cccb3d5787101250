"""A queue on Redis that many machines share. Needs `bulkspider[redis]`; nothing else here imports it.

`worker` is the source of a worker's run, made of the parts in `working/`. `job` is the queue as `scrapy bulkqueue` uses
it: `rows` sorts what is pushed, `status` says how far it is, `report` what became of each entry, `serve` shows both to
browsers and Prometheus. `scripts` are the keys in Redis and all changes of them, `address` is where Redis is.
"""
