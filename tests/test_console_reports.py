"""Reports and journeys of the console: ranges, comparison with the range before, and the digits of numbers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.digits import even_numbers, even_shares, p_value
from console.ranges import ChosenRange
from console.report_table import headings, table_rows
from console.text import NONE
from tests.console_lab import console_client, sign_in
from tests.http_lab import EVENT, KEY, PATH, api_of, consuming, until_keys_are_known, with_key
from tests.lab import Lab


class ReportViewer:
    """A viewer who has signed in, beside the API, with a worker on the topic."""

    def __init__(self, api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
        self._api = api
        self.browser = browser

    async def send(self, **fields: Any) -> None:
        """Send an event, and wait until a worker has stored it."""
        answer = await self._api.post(PATH, json=EVENT | fields, headers={"Prefer": "wait=10"})
        assert answer.status_code == 200, answer.text

    async def search(self, **fields: Any) -> None:
        """Send a search with one result, which is clicked."""
        for each in ("impression", "click"):
            await self.send(**fields, interaction_type=[each])

    async def see(self, path: str, status: int = 200, /, **query: Any) -> str:
        """Return a page or panel as text."""
        answer = await self.browser.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.text


@pytest.fixture
async def viewer(lab: Lab) -> AsyncIterator[ReportViewer]:
    async with (
        api_of(with_key(lab.settings)) as api,
        consuming(lab.settings),
        console_client("http://t", api._transport) as browser,
    ):
        await until_keys_are_known(api)
        await sign_in(browser, KEY)
        yield ReportViewer(api, browser)


async def test_the_range_before_is_named_when_it_has_no_events(viewer: ReportViewer) -> None:
    await viewer.search(execution_id="now")
    query: dict[str, Any] = {"hours": "24", "by": "all", "compare": "1"}
    rows = await viewer.see("/reports/overview/rows", **query)
    assert "has no events.</p>" in rows
    assert "before: " not in rows
    earlier = (datetime.now(UTC) - timedelta(hours=30)).isoformat()
    await viewer.search(execution_id="then", occurred_at=earlier)
    rows = await viewer.see("/reports/overview/rows", **query)
    assert "has no events.</p>" not in rows
    assert "before: 100.0 % (20.7 % to 100.0 %)" in rows, "a value of the range before has its interval"


async def test_a_column_of_a_field_has_the_name_of_the_field(viewer: ReportViewer) -> None:
    await viewer.search(execution_id="now", metadata={"device": "phone"})
    rows = await viewer.see("/reports/overview/rows", hours="24", by="metadata.device")
    assert ">metadata.device</th>" in rows
    assert ">period</th>" not in rows
    assert ">metadata.device</th>" in await viewer.see("/reports/positions/rows", hours="24", by="metadata.device")
    assert ">period</th>" in await viewer.see("/reports/overview/rows", hours="24", by="day")


async def test_sessions_of_a_report_lead_to_their_journeys(viewer: ReportViewer) -> None:
    await viewer.search(execution_id="now", session_id="visit-1", retriever_id="dense")
    rows = await viewer.see("/reports/sessions/rows", hours="48")
    link = "/journey?session=visit-1&amp;hours=48"
    assert f'<a href="{link}">visit-1</a>' in rows
    page = await viewer.see("/journey", session="visit-1", hours="48")
    assert '<option value="48" selected>last 48 hours</option>' in page
    assert link.replace("/journey", "/journey/events") in page
    assert "impression" in await viewer.see("/journey/events", session="visit-1", hours="48")
    assert "is not a number of hours" in await viewer.see("/journey/events", 422, session="visit-1", hours="long")


async def test_a_range_that_is_not_among_the_choices_is_read(viewer: ReportViewer) -> None:
    await viewer.search(execution_id="then", occurred_at=(datetime.now(UTC) - timedelta(hours=30)).isoformat())
    assert "No event in this range" in await viewer.see("/reports/overview/rows")
    for query in ({"hours": "48"}, {"days": "2"}):
        assert "No event in this range" not in await viewer.see("/reports/overview/rows", **query)
        page = await viewer.see("/reports/overview", **query)
        assert '<option value="48" selected>last 48 hours</option>' in page
    everything = await viewer.see("/reports/overview/rows", hours="900000", by="all", compare="1")
    assert "No event in this range" not in everything
    assert "has no events.</p>" in everything
    for hours in ("soon", "nan", "0", "-1", "900001"):
        assert "is not a number of hours" in await viewer.see("/reports/overview/rows", 422, hours=hours)
    assert "one of from, hours and days" in await viewer.see("/reports/overview/rows", 422, hours="1", days="1")


async def test_the_hint_of_a_comparison_names_retrievers_alone(viewer: ReportViewer) -> None:
    await viewer.search(execution_id="one", retriever_id="dense")
    await viewer.search(execution_id="two", retriever_id=None)
    assert "Retrievers of the last week: dense.</p>" in await viewer.see("/reports/compare")


async def test_a_page_that_does_not_exist_has_the_header(viewer: ReportViewer) -> None:
    page = await viewer.see("/nothing", 404)
    assert "There is no such page" in page
    assert 'class="screens"' in page
    viewer.browser.cookies.clear()
    page = await viewer.see("/nothing", 404)
    assert "There is no such page" in page
    assert 'class="brand"' in page
    assert 'class="screens"' not in page


def test_lengths_in_days_are_hours() -> None:
    found = ChosenRange.of({"days": "0.5"})
    assert (found.hours, found.until - found.since) == ("12", timedelta(hours=12))
    assert found.choices()["12"] == "last 12 hours"
    assert ChosenRange.of({"hours": "1"}).choices() == ChosenRange.of({}).choices()


async def test_the_form_of_learning_shows_what_its_panels_use(viewer: ReportViewer) -> None:
    page = await viewer.see("/learning", retriever="dense", since="2026-11-01", until="2026-11-02", days="9")
    assert '<option value="" selected>from … until</option>' in page
    assert 'name="since" value="2026-11-01"' in page
    assert 'name="until" value="2026-11-02"' in page
    assert "<option selected>9</option>" in page
    usual = await viewer.see("/learning", retriever="dense")
    assert '<option value="168" selected>' in usual
    assert "<option selected>30</option>" in usual
    assert "from … until" not in usual


@pytest.mark.parametrize("length", [{"hours": "168"}, {"days": "7"}])
def test_a_length_beside_a_beginning_is_refused_as_by_the_api(length: dict[str, str]) -> None:
    """Else a viewer who chooses a length, while the field for the beginning is filled, sees another range."""
    assert "choose one of from, hours and days" in ChosenRange.of({"since": "2026-11-01", **length}).problem
    assert ChosenRange.of({"until": "2026-11-01", **length}).problem == ""
    assert ChosenRange.of({"since": "2026-11-01", "until": "2026-11-02", "hours": ""}).problem == ""


def test_the_longest_range_in_days_can_be_chosen_again() -> None:
    found = ChosenRange.of({"days": "40000"})
    assert (found.problem, ChosenRange.of({"hours": found.hours}).problem) == ("", "")


NUMBERS = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=8)


@given(NUMBERS)
def test_numbers_of_one_column_have_as_many_digits(values: list[float | None]) -> None:
    for show in (even_numbers(values), even_shares(values)):
        shown = [text for text in map(show, values) if text != NONE]
        assert len({len(text.partition(".")[2]) for text in shown}) <= 1
    assert [show is None for show in values] == [even_numbers(values)(each) == NONE for each in values]


def test_digits_are_those_of_the_number_that_needs_most() -> None:
    show = even_numbers([0.3, 0.246, None])
    assert [show(each) for each in (0.3, 0.246, None)] == ["0.300", "0.246", NONE]
    assert even_numbers([1, 20])(20) == "20"
    assert even_numbers([0.0123, 0.001])(0.001) == "0.0010"
    assert even_shares([0.3, 0.9997])(0.3) == "30.00 %"
    assert (p_value(0.04321), p_value(1e-9)) == ("0.0432", "<0.0001")


def test_cells_of_a_column_have_as_many_digits() -> None:
    columns = [{"name": "key", "unit": "text"}, {"name": "mrr", "unit": "number"}]
    now = [{"key": "a", "mrr": 0.3, "mrr_low": 0.2, "mrr_high": 0.4}, {"key": "b", "mrr": 0.246}]
    before = [{"key": "a", "mrr": 0.5, "mrr_low": 0.25, "mrr_high": 0.75}]
    since = "2026-11-29T00:00:00.000Z"
    table = table_rows(columns, ["key"], {"since": since, "rows": now}, {"since": since, "rows": before})
    first, second = (row[1] for row in table)
    assert (first.text, first.interval) == ("0.300", "0.200 to 0.400")
    assert (first.before, first.before_interval) == ("0.500", "0.250 to 0.750")
    assert (second.text, second.before) == ("0.246", "")


def test_only_values_of_a_field_are_named_by_it() -> None:
    columns = [{"name": "period", "unit": "time"}, {"name": "ctr", "unit": "share"}]
    assert headings(columns, "day") == ["period", "ctr"]
    assert headings([columns[0] | {"unit": "text"}, columns[1]], "user_id") == ["user_id", "ctr"]


async def test_a_period_is_compared_with_the_one_of_the_range_before(viewer: ReportViewer) -> None:
    """Hours without events have no row, and rows may be in another order than that of time."""
    now = datetime.now(UTC)
    for hours_ago, searches in ((1, 2), (3, 1), (25, 3)):
        for number in range(searches):
            at = (now - timedelta(hours=hours_ago)).isoformat()
            await viewer.search(execution_id=f"{hours_ago} {number}", occurred_at=at)
    query = {"hours": "24", "by": "hour", "compare": "1"}
    for sort in ("", "executions", "executions:desc"):
        rows = await viewer.see("/reports/overview/rows", **query, sort=sort)
        compared = [row for row in rows.split("<tr>") if "before: " in row]
        assert len(compared) == 1
        assert f'datetime="{now - timedelta(hours=1):%Y-%m-%dT%H}:00' in compared[0]
        assert '<td class="number">2<br><span class="small">before: 3</span></td>' in compared[0]
