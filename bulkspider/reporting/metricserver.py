"""The page that Prometheus reads (`metrics.py`), served by a thread of its own.

prometheus-client's server is not used: like every HTTPServer of the standard library it looks this machine's name up in
the DNS, and the crawl would wait for the answer. If its thread cannot be started, or ends, there is one warning, and
the run goes on.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from bulkspider.errors import WorkerError
from bulkspider.workers import as_bulk_error, start

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)


class MetricServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves from its creation until `close`."""

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """Raises OSError when it cannot listen there, WorkerError when no thread can be started."""
        self._warned = False
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__(cast(Any, address), _SilentHandler)
        self.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._serve, name="bulk-metrics", daemon=True)
        try:
            start(self._thread)
        except WorkerError:
            self.server_close()
            raise

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def close(self) -> None:
        # `shutdown` waits for the thread, for ever if it has ended.
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()

    def _serve(self) -> None:
        try:
            self.serve_forever()
        except BaseException as error:
            self._warn_once(error)

    def handle_error(self, request: object, client_address: object) -> None:
        """A request could not be answered. OSError: its client has closed the connection, as happens."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self._warn_once(error)

    def _warn_once(self, error: BaseException) -> None:
        if not self._warned:
            logger.warning("The metrics are not served any more (%s); the run goes on", as_bulk_error(error))
        self._warned = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No access log."""
