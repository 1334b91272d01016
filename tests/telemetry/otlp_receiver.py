"""A receiver of OTLP over HTTP on loopback that keeps what it is sent."""

import gzip
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """One span, with the service that sent it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]


class OtlpReceiver:
    """What came in so far."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[ReceivedSpan] = []
        self.headers: list[str | None] = []

    def until(self, names: set[str]) -> dict[str, ReceivedSpan]:
        """The last span of each of these names, once they are all there."""
        deadline = time.monotonic() + 20
        while not names <= {span.name for span in self.spans}:
            assert time.monotonic() < deadline, (names, self.spans)
            time.sleep(0.02)
        return {span.name: span for span in self.spans}

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        sent = ExportTraceServiceRequest.FromString(body)
        for group in sent.resource_spans:
            service = next(one.value.string_value for one in group.resource.attributes if one.key == "service.name")
            for span in (span for scope in group.scope_spans for span in scope.spans):
                self.spans.append(
                    ReceivedSpan(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == 2,
                        {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes},
                    )
                )


@contextmanager
def otlp_receiver() -> Generator[OtlpReceiver]:
    """A receiver that listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                receiver.take(body)
                receiver.headers.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = OtlpReceiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
