"""Traces from a request through its record's header to the insert. Off, at no cost, without TALLY_TRACES_ENDPOINT.

A traced request (traced by its caller, or sampled by TALLY_TRACES_RATIO) puts the W3C `traceparent` on its records. The
worker adds a span for each of them. OpenTelemetry's packages are the extra `traces`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from runtime.errors import SettingsError
from runtime.settings import Settings
from schemas.wire import TRACE_HEADER

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

EXPORT_TIMEOUT_S = 5

_header: ContextVar[bytes | None] = ContextVar("traceparent", default=None)


def current_traceparent() -> bytes | None:
    """Return the traceparent header for records of the current request, if it is traced."""
    return _header.get()


class Traces:
    """Traces of one process. `service` is its name in them."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._tracer: Tracer | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether tracing is enabled."""
        return self._tracer is not None

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Export spans from a thread until the block ends. Raises SettingsError when the packages are missing."""
        endpoint = self._settings.traces_endpoint
        if not endpoint:
            yield
            return
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(
                f"TALLY_TRACES_ENDPOINT needs OpenTelemetry ({error.name}): pip install 'tally-server[traces]'"
            ) from error
        provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(self._settings.traces_ratio),
            resource=Resource.create({"service.name": self._service}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = provider.get_tracer("tally")
        try:
            yield
        finally:
            self._tracer = None
            provider.shutdown()

    @contextmanager
    def request(self, method: str, traceparent: bytes | None) -> Iterator["Span | None"]:
        """Open the span of a request with this header. The caller sets its name and status before it ends."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        with self._tracer.start_as_current_span(
            method, context=_context(traceparent), kind=SpanKind.SERVER, record_exception=False
        ) as span:
            token = _header.set(_traceparent(span))
            try:
                yield span
            finally:
                _header.reset(token)

    def record_consumed(self, traceparent: bytes, begun_at: float, attributes: Mapping[str, str | int]) -> None:
        """Record the span of a stored record, from `begun_at` (seconds since 1970) until now."""
        if self._tracer is not None:
            from opentelemetry.trace import SpanKind  # noqa: PLC0415

            span = self._tracer.start_span(
                "store",
                context=_context(traceparent),
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                start_time=int(begun_at * 1e9),
            )
            span.end(time.time_ns())


def _context(traceparent: bytes | None) -> "Context":
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier = {TRACE_HEADER: traceparent.decode("ascii", "replace")} if traceparent else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _traceparent(span: "Span") -> bytes | None:
    context = span.get_span_context()
    return b"00-%032x-%016x-01" % (context.trace_id, context.span_id) if context.trace_flags.sampled else None
