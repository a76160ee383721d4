"""Every screen of the console in a browser: accessible in light and dark, as wide as a phone, and safe from texts."""

from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlencode

import pytest
from selenium import webdriver

from console.navigation import SCREENS
from schemas.analytics.catalogue import REPORTS
from tests.browser.axe import violations_of
from tests.browser.console_content import HOSTILE, HOSTILE_NAME, ConsoleContent, fill, hostile_event_fields
from tests.browser.console_lab import NARROW, WIDE, ConsolePage, ConsoleSite
from tests.browser.pages_lab import in_browser

REFUSED, MISSING = 422, 404
"""Statuses of an estimate for which there are too few events, and of a page that does not exist."""
Address = Callable[[ConsoleContent], str]
SCREEN_PATHS: dict[str, Address] = {
    **{screen.title: lambda _, path=screen.path: path for screen in SCREENS},  # type: ignore[misc]
    **{f"{screen.title}, empty": lambda _, path=screen.path: f"{path}?ns=shop" for screen in SCREENS},  # type: ignore[misc]
    "Report with comparison": lambda _: "/reports/overview?by=hour&hours=24&compare=1",
    "Groups of duplicates": lambda _: "/live?verdict=duplicate",
    "One event": lambda content: f"/find?id={content.event}",
    "Events of a search": lambda _: "/find?id=search-0",
    "No event": lambda _: "/find?id=nothing",
    "Dead letter": lambda content: f"/dead-letters/{content.letter}",
    "Replay form": lambda _: "/dead-letters/replay?reason=wrong_type&field=position",
    "Journey of a session": lambda _: "/journey?session=visit-0",
    "Learning of a query": lambda _: "/learning?retriever=dense&query=red+shoes",
    "Interleaving": lambda _: "/learning/interleavings/new-ranker",
}
RETRIEVERS = {"compare": "a=dense&b=sparse"}
REPORT_PATHS = {each: f"/reports/{each}?hours=24&{RETRIEVERS.get(each, '')}" for each in REPORTS if each != "journey"}
HOSTILE_PATHS: dict[str, Address] = {
    "Groups of duplicates": lambda _: "/live?verdict=duplicate",
    "One event": lambda content: f"/find?id={content.hostile_event}",
    "Events of an execution": lambda content: f"/find?{urlencode({'id': content.hostile_id})}",
    "Id of no event": lambda _: f"/find?{urlencode({'id': HOSTILE})}",
    "Dead letters": lambda _: "/dead-letters?replayed=all",
    "Dead letters of a field": lambda _: (
        f"/dead-letters?{urlencode({'field': HOSTILE, 'since': '2026-01-01T00:00:00Z'})}"
    ),
    "Dead letter": lambda content: f"/dead-letters/{content.hostile_letter}",
    "Dead letter of no namespace": lambda content: f"/dead-letters/{content.unattributed_letter}?unattributed=1",
    "Replay form": lambda _: f"/dead-letters/replay?{urlencode({'reason': HOSTILE, 'patch': HOSTILE})}",
    "Journey": lambda content: f"/journey?{urlencode({'session': content.hostile_id})}",
    "Sessions": lambda _: "/journey",
    "Learning": lambda _: f"/learning?{urlencode({'retriever': HOSTILE_NAME, 'query': HOSTILE})}",
    "Interleaving": lambda _: f"/learning/interleavings/{quote(HOSTILE_NAME, safe='')}",
    "Overview": lambda _: "/",
    "Keys": lambda _: "/keys",
}
INVISIBLE_TEXT = r"""
const invisible = /[\u0000-\u0008\u000b-\u001f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ue000\ufeff]/, found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode())
    if (invisible.test(walker.currentNode.data) && !walker.currentNode.parentElement.matches("textarea, script"))
        found.push(walker.currentNode.parentElement.outerHTML.slice(0, 300));
return found"""
COLOURS = """const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
const names = rules.flatMap((rule) => [...rule.style ?? []]).filter((name) => name.startsWith("--"));
const sample = document.body.appendChild(document.createElement("i"));
return names.map((name) => {
    sample.style.color = `var(${name})`;
    return `${name} ${getComputedStyle(sample).color}`;
}).join()"""


PHONE_FAULTS = """const found = [], name = (each) => `${each.localName} ${each.textContent.slice(0, 60)}`;
const isShown = (each) => each.checkVisibility() && each.getBoundingClientRect().width > 0;
for (const link of [...document.querySelectorAll("td a")].filter(isShown)) {
    const {width, height} = link.getBoundingClientRect();
    if (Math.min(width, height) < 24) found.push(`target of ${width} x ${height} px: ${name(link)}`);
}
for (const each of [...document.querySelectorAll("td.id, td time")].filter(isShown)) {
    const text = document.createRange();
    text.selectNodeContents(each);
    if (new Set([...text.getClientRects()].map((line) => line.top)).size > 1) found.push(`lines: ${name(each)}`);
}
for (const chart of [...document.querySelectorAll("svg.chart")].filter(isShown)) {
    const frame = chart.getBoundingClientRect();
    for (const text of [...chart.querySelectorAll("text")].filter(isShown)) {
        const place = text.getBoundingClientRect();
        if (place.left < frame.left - 1 || place.right > frame.right + 1) found.push(`cut off: ${name(text)}`);
        const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / chart.viewBox.baseVal.width;
        if (size < 10) found.push(`text of ${size} px: ${name(text)}`);
    }
}
return found"""


@pytest.fixture(scope="session")
async def content(console: ConsoleSite) -> ConsoleContent:
    """Content of the screens."""
    return await fill(console)


async def faults_of(page: ConsolePage, driver: webdriver.Chrome, *statuses: int) -> list[str]:
    """Return the faults of the present page in both widths and colours, without responses of these statuses."""
    faults = await page.problems(*statuses)
    for width in (WIDE, NARROW):
        await page.resize(width)
        if beyond := await page.width_beyond():
            faults.append(f"{beyond} px wider than {width} px")
        for colours in ("light", "dark"):
            await page.use_colours(colours)
            faults += [f"{colours}, {width} px: {each}" for each in await in_browser(violations_of, driver)]
    return faults + list(await page.run(PHONE_FAULTS))


@pytest.mark.parametrize("address", SCREEN_PATHS.values(), ids=SCREEN_PATHS)
async def test_a_screen_has_no_fault(
    page: ConsolePage, content: ConsoleContent, console_browser: webdriver.Chrome, address: Address
) -> None:
    """A screen passes axe in light and dark, is never wider than a phone, and its browser logs nothing."""
    await page.open(address(content))
    assert await faults_of(page, console_browser) == []


@pytest.mark.parametrize("path", REPORT_PATHS.values(), ids=REPORT_PATHS)
async def test_a_report_has_no_fault(
    page: ConsolePage, content: ConsoleContent, console_browser: webdriver.Chrome, path: str
) -> None:
    """A report with rows passes axe, is never wider than a phone, and shows texts as text."""
    await page.open(path)
    await page.shown("#answer table")
    assert await page.run(INVISIBLE_TEXT) == []
    assert await faults_of(page, console_browser) == []


async def test_a_page_that_does_not_exist_has_no_fault(page: ConsolePage, console_browser: webdriver.Chrome) -> None:
    """The page for an unknown address has the header and the navigation, and passes axe."""
    await page.open("/nothing")
    await page.shown("nav.screens a", "Overview")
    assert await faults_of(page, console_browser, MISSING) == []


async def _open_menu(page: ConsolePage) -> None:
    await page.open("/")
    await page.click(".menu summary")
    await page.shown("#namespace")


async def _check_a_patch(page: ConsolePage) -> None:
    await page.type("#patch", '{"position": -1}')
    await page.shown("[data-answer] .bad", "Still rejected")


async def _try_a_patch(page: ConsolePage) -> None:
    await page.type("#patch", '{"position": -1}')
    await page.click("button", "Dry run")
    await page.shown("h2", "Dry run: nothing was changed")


async def _create_a_key(page: ConsolePage) -> None:
    await page.open("/keys")
    await page.type("#name", "search service")
    await page.click("button", "Create key")
    await page.shown("#new-key")


async def _revoke_a_key(page: ConsolePage) -> None:
    await page.open("/keys")
    await page.click("#keys button", "Revoke")
    await page.shown("h1", "Revoke this key?")


async def _enter_a_wrong_rate(page: ConsolePage) -> None:
    await page.open("/keys")
    await page.type("#name", "search service")
    await page.type("#namespaces", ",")
    await page.click("button", "Create key")
    await page.shown("#problem")


async def _enter_a_wrong_key(page: ConsolePage) -> None:
    await page.open("/sign-in")
    await page.type("#key", "wrong")
    await page.click("button", "Sign in")
    await page.shown("#problem")


Steps = Callable[[ConsolePage], Awaitable[None]]
STATES: dict[str, tuple[Steps, Address, int]] = {
    "menu": (_open_menu, lambda _: "/", 0),
    "check": (_check_a_patch, lambda content: f"/dead-letters/{content.letter}", 0),
    "dry run": (_try_a_patch, lambda _: "/dead-letters/replay?reason=wrong_type&field=position", 0),
    "created key": (_create_a_key, lambda _: "/keys", 0),
    "revoked key": (_revoke_a_key, lambda _: "/keys", 0),
    "refused key": (_enter_a_wrong_rate, lambda _: "/keys", 422),
    "sign-in": (_enter_a_wrong_key, lambda _: "/sign-in", 401),
}


@pytest.mark.parametrize(("steps", "address", "status"), STATES.values(), ids=STATES)
async def test_a_state_has_no_fault(
    page: ConsolePage,
    content: ConsoleContent,
    console_browser: webdriver.Chrome,
    steps: Steps,
    address: Address,
    status: int,
) -> None:
    """A state that takes steps to reach passes axe in light and dark, and is never wider than a phone."""
    await page.open(address(content))
    await steps(page)
    expected = await page.problems(status)
    assert expected == []
    assert await faults_of(page, console_browser) == []


async def test_live_events_have_no_fault(
    page: ConsolePage, console: ConsoleSite, content: ConsoleContent, console_browser: webdriver.Chrome
) -> None:
    """Rows of live events pass axe, are never wider than a phone, and show hostile texts as text."""
    await page.open("/live")
    await page.shown("[data-live-status]", "new events")
    await console.send(execution_id="seen live")
    await console.send(**hostile_event_fields())
    await page.shown("[data-live] tbody", "class=hostile")
    await _expect_text(page)
    assert await faults_of(page, console_browser) == []


@pytest.mark.parametrize("address", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS)
async def test_texts_meant_to_do_harm_stay_text(page: ConsolePage, content: ConsoleContent, address: Address) -> None:
    """Markup makes no element, invisible characters are written out, and long texts do not widen the page."""
    await page.open(address(content))
    await page.until("return document.querySelector('main').outerHTML.includes('class=hostile')")
    await _expect_text(page)


async def _expect_text(page: ConsolePage) -> None:
    assert not await page.has_dialog()
    elements = "return document.querySelectorAll('.hostile, [onerror], [onclick], [onmouseover]').length"
    assert await page.run(elements) == 0
    assert await page.run(INVISIBLE_TEXT) == []
    for width in (WIDE, NARROW):
        await page.resize(width)
        assert await page.width_beyond() == 0
    assert await page.problems(REFUSED) == []


async def test_a_chosen_theme_has_the_colours_of_the_system(page: ConsolePage) -> None:
    """Dark by choice looks as dark by the system does, and light likewise, whatever the system is."""
    by_system = {}
    for colours in ("light", "dark"):
        await page.use_colours(colours)
        by_system[colours] = await page.run(COLOURS)
    assert by_system["light"] != by_system["dark"]
    for colours, others in (("light", "dark"), ("dark", "light")):
        await page.click(".menu summary")
        await page.click("button[name=theme]", colours.capitalize())
        await page.shown(f"html[data-theme={colours}] main")
        await page.use_colours(others)
        assert await page.run(COLOURS) == by_system[colours]
