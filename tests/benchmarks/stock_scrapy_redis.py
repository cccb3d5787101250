"""The negative control of `tests/cluster/test_workers.py`: stock scrapy-redis under the same harness. Not part of the tests.

Two workers (RedisSpider, 8 requests at once each) fetch 50 files from a slow server; one worker gets one `kill -9` and is
started again. Needs `pip install scrapy-redis`. Run: python tests/benchmarks/stock_scrapy_redis.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import redis

from support.faulty import FaultyOrigin, make_body
from support.redisserver import RedisServer
from support.workers import Throttled

FILES = 50

SPIDER = """
from pathlib import Path
from scrapy_redis.spiders import RedisSpider


class Stock(RedisSpider):
    name = "stock"
    redis_key = "stock:urls"
    max_idle_time = 8
    custom_settings = {"REDIS_URL": "%s", "CONCURRENT_REQUESTS": 8, "CONCURRENT_REQUESTS_PER_DOMAIN": 8,
                       "DOWNLOAD_DELAY": 0, "LOG_LEVEL": "ERROR"}

    def parse(self, response):
        Path(response.url.rpartition("/")[2]).write_bytes(response.body)
"""


def main() -> None:
    bodies = {f"{n}.bin": make_body(200_000 + n, str(n)) for n in range(FILES)}
    with tempfile.TemporaryDirectory() as name, FaultyOrigin() as origin:
        folder = Path(name)
        throttle = Throttled(100_000)
        for file, body in bodies.items():
            origin.add(file, throttle, body)
        with RedisServer(folder) as server:
            (folder / "spider.py").write_text(SPIDER % server.url)
            client = redis.Redis.from_url(server.url)
            client.lpush("stock:urls", *(origin.url(file) for file in bodies))
            command = [sys.executable, "-m", "scrapy", "runspider", "spider.py"]
            workers = [subprocess.Popen(command, cwd=folder) for _ in range(2)]
            origin.wait_until(lambda origin: len(origin.requests) >= 20)
            time.sleep(1)
            workers[0].kill()
            workers[0].wait()
            workers[0] = subprocess.Popen(command, cwd=folder)
            statuses = [worker.wait() for worker in workers]
            left = client.llen("stock:urls")
            client.close()
        good = sum((folder / file).exists() and (folder / file).read_bytes() == body for file, body in bodies.items())
    print(f"{good} of {FILES} files, {FILES - good} lost; exit status {statuses}; {left} left in Redis")


if __name__ == "__main__":
    main()
