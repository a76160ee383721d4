"""Traces: one from the caller's request through the record's header to the worker's insert; none when off."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from runtime.errors import SettingsError
from runtime.settings import Settings
from runtime.traces import Traces
from schemas.wire import TRACE_HEADER
from tests.http_lab import EVENT, PATH, api_of, with_key
from tests.lab import Lab, reading

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def receiver() -> Iterator[tuple[str, dict[str, Span]]]:
    """Address of an OTLP receiver, and its received spans by service and name."""
    taken: dict[str, Span] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
                for scope in resource.scope_spans:
                    taken.update({f"{service} {span.name}": span for span in scope.spans})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
        server.shutdown()


async def test_a_trace_goes_from_the_caller_to_the_insert(lab: Lab) -> None:
    with receiver() as (endpoint, taken):
        settings = with_key(lab.settings, traces_endpoint=endpoint, traces_ratio=0)
        async with api_of(settings) as api:
            traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            created = (await api.post(PATH, json=EVENT, headers=traced)).json()["interaction_id"]
            assert (await api.post(PATH, json=EVENT | {"execution_id": "untraced"})).status_code == 200
        counts = await lab.drain(traces_endpoint=endpoint)
        assert counts.stored == 2
    assert set(taken) == {f"tally-api POST {PATH}", "tally-worker store"}, "one was not traced"
    request, store = taken[f"tally-api POST {PATH}"], taken["tally-worker store"]
    assert request.trace_id.hex() == store.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert store.parent_span_id == request.span_id
    attributes = {each.key: each.value for each in store.attributes}
    assert attributes["tally.interaction_id"].string_value == created
    assert request.start_time_unix_nano < store.end_time_unix_nano


async def test_records_have_no_trace_header_while_tracing_is_off(lab: Lab) -> None:
    async with api_of(with_key(lab.settings)) as api:
        traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert (await api.post(PATH, json=EVENT, headers=traced)).status_code == 200
    async with reading(lab.settings, lab.settings.topic) as records:
        assert TRACE_HEADER not in dict(records[0].headers)


async def test_an_unreachable_receiver_does_not_delay_events(lab: Lab) -> None:
    settings = with_key(lab.settings, traces_endpoint="http://127.0.0.1:1/v1/traces", traces_ratio=1)
    async with api_of(settings) as api:
        assert (await api.post(PATH, json=EVENT)).status_code == 200
    assert (await lab.drain(traces_endpoint=settings.traces_endpoint)).stored == 1


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    traces = Traces(Settings(traces_endpoint="http://127.0.0.1:1"), "t").exported()
    with pytest.raises(SettingsError, match=r"tally-server\[traces\]"), traces:
        pass
