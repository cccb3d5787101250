"""Metrics: the `bulk/` stats of a crawl for Prometheus, on BULK_METRICS_PORT while it runs.

For runs of days that are monitored from another machine. It only reads the stats, so it works for every spider. It
needs the package prometheus-client (`pip install 'bulkspider[metrics]'`), which is imported only when a port is set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from scrapy import signals
from scrapy.exceptions import NotConfigured

from bulkspider.errors import UsageError, WorkerError
from bulkspider.options import Options
from bulkspider.run.run import Run
from bulkspider.spiders.bulk import BulkSpider

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from scrapy.crawler import Crawler
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# Stat and its help text; counters only grow.
COUNTERS = {
    "bytes_received": "Bytes of files received by this run",
    "bytes_resumed": "Bytes that were on disk before this run and were not fetched again",
    "attempts": "Requests made for files",
}
GAUGES = {
    "entries": "Entries of the list",
    "already": "Entries that an earlier run had done",
    "active": "Transfers under way",
    "left": "Entries never begun when the run was stopped",
}
FAMILIES = {
    "files": ("status", "Entries by their outcome"),
    "failed": ("code", "Failed entries by their error code"),
}


class Metrics:
    """Serves the metrics as long as the spider is open."""

    def __init__(self, crawler: Crawler, host: str, port: int) -> None:
        self._crawler = crawler
        self._at = (host, port)
        self._server: Any = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        options = Options.from_settings(cast(Any, crawler.settings))
        if not options.metrics_port:
            raise NotConfigured
        metrics = cls(crawler, options.metrics_host, options.metrics_port)
        crawler.signals.connect(metrics._opened, signals.spider_opened)
        crawler.signals.connect(metrics._stopped, signals.engine_stopped)
        return metrics

    def _opened(self) -> None:
        from prometheus_client import CollectorRegistry

        from bulkspider.reporting.metricserver import MetricServer

        # Not the default registry, which belongs to the project.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        host, port = self._at
        try:
            self._server = MetricServer(host, port, registry)
        except WorkerError as error:
            logger.warning("There are no metrics (%s); the run goes on without them", error)
        except OSError as error:
            refusal = UsageError(
                f"BULK_METRICS_PORT={port}: cannot listen on {host}:{port} ({error.strerror}); "
                "choose another port or BULK_METRICS_HOST"
            )
            run = self._crawler.get_extension(Run)
            if run is not None and isinstance(self._crawler.spider, BulkSpider):
                run.refuse(refusal)
            else:
                # Only crawls of the spider `bulk` are ended.
                logger.error("%s", refusal)
        else:
            logger.info("metrics: http://%s:%d/metrics", host, port)

    def _stopped(self) -> None:
        if self._server is not None:
            self._server.close()

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client calls for each request, in a thread of its own."""
        # A copy: the reactor's thread goes on counting.
        return families(dict(self._crawler.stats.get_stats()))


def families(stats: Mapping[str, Any]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    for name, help_text in COUNTERS.items():
        yield CounterMetricFamily(f"bulk_{name}", help_text, value=stats.get(f"bulk/{name}", 0))
    for name, help_text in GAUGES.items():
        yield GaugeMetricFamily(f"bulk_{name}", help_text, value=stats.get(f"bulk/{name}", 0))
    for name, (label, help_text) in FAMILIES.items():
        family = CounterMetricFamily(f"bulk_{name}", help_text, labels=[label])
        prefix = f"bulk/{name}/"
        for stat, value in stats.items():
            if stat.startswith(prefix):
                family.add_metric([stat.removeprefix(prefix)], value)
        yield family
