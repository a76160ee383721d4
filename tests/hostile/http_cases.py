"""All attacks over HTTP as cases: each docstring states the property that must hold."""

from tests.hostile import http_body_cases, http_time_cases, http_wire_cases
from tests.hostile.http_target import Case

CASES: list[Case] = [*http_body_cases.CASES, *http_time_cases.CASES, *http_wire_cases.CASES]
