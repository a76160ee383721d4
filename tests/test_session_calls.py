"""Calls to Redis by which a worker sends session signals."""

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.session_signals import MAX_EVENTS, SessionEvents, SessionPlace, _calls_of

NOW_MS = 1_790_000_000_000


@given(st.lists(st.lists(st.integers(1, 700), max_size=1_200), max_size=4))
@hypothesis_settings(max_examples=20, deadline=None)
def test_calls_have_every_event_once(sessions: list[list[int]]) -> None:
    given_events = [
        SessionEvents(
            SessionPlace(0, f"s-{session}"),
            [f"field {number}" for number in range(1, 701)],
            [number for offset, counted in enumerate(fields) for number in (counted, 0, offset, NOW_MS)],
        )
        for session, fields in enumerate(sessions)
    ]
    found = []
    for call in _calls_of(given_events):
        events = sum(len(each) for _, _, each in call) // 4
        assert 0 < events <= MAX_EVENTS
        found += [
            (name, fields[each[at] - 1], *each[at + 1 : at + 4])
            for name, fields, each in call
            for at in range(0, len(each), 4)
        ]
    assert found == [
        (f"s-{session}", f"field {counted}", 0, offset, NOW_MS)
        for session, fields in enumerate(sessions)
        for offset, counted in enumerate(fields)
    ]


def test_a_session_of_many_features_is_sent_in_calls_of_their_own_fields() -> None:
    """All its fields in each call would fill the memory of the worker."""
    events = [number for offset in range(2_000) for number in (offset + 1, 0, offset, NOW_MS)]
    session = SessionEvents(SessionPlace(0, "s"), [f"field {number}" for number in range(2_000)], events)
    assert [len(fields) for call in _calls_of([session]) for _, fields, _ in call] == [MAX_EVENTS] * 4
