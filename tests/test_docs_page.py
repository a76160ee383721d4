"""The page at /docs: all it loads comes from the API itself, and its policy allows nothing else."""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

from tests.http_lab import PATH

CSS_LOAD = re.compile(r"url\(\s*[\"']?([^\"')]*)|@import\s+[\"']([^\"']+)")


class _Page(HTMLParser):
    """Addresses that a page loads, and its inline scripts, styles and event handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._within = tag
        self.loads += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


async def test_the_page_loads_only_from_the_api(shared_api: httpx.AsyncClient) -> None:
    answer = await shared_api.get("/docs", headers={"Authorization": ""})
    assert answer.status_code == 200
    page = _Page()
    page.feed(answer.text)
    assert page.inline == [], "the policy allows no inline script, style or event handler"
    assert len(page.loads) == 4
    for each in page.loads:
        address = urlsplit(urljoin(str(answer.url), each))
        assert (address.scheme, address.netloc) == ("http", "t"), each
        asset = await shared_api.get(address.path, headers={"Authorization": ""})
        assert asset.status_code == 200, each
        assert asset.headers["x-content-type-options"] == "nosniff"
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript", "image/png"))
        if each.endswith(".css"):
            urls = [first or second for first, second in CSS_LOAD.findall(asset.text)]
            assert urls and all(url.startswith("data:") for url in urls)


async def test_the_policy_forbids_other_hosts_and_inline_code(shared_api: httpx.AsyncClient) -> None:
    """Addresses in Swagger UI's script, such as the validator's, cannot be reached, whatever its settings are."""
    policy = (await shared_api.get("/docs")).headers["content-security-policy"]
    rules = {name: sources.split() for name, _, sources in (each.strip().partition(" ") for each in policy.split(";"))}
    assert rules.pop("img-src") == ["'self'", "data:"]
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == ["'none'"]
    assert {source for sources in rules.values() for source in sources} == {"'self'", "'none'"}
    start = (await shared_api.get("/docs/start.js")).text
    assert "validatorUrl: null" in start
    assert "persistAuthorization: false" in start
    assert not re.search(r"https?://", start)


async def test_the_framework_has_no_pages_of_its_own(shared_api: httpx.AsyncClient) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect", "/docs/", "/docs/__init__.py"):
        assert (await shared_api.get(path)).status_code == 404, path


async def test_each_operation_names_the_key_that_the_page_can_send(shared_api: httpx.AsyncClient) -> None:
    document = (await shared_api.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["Key"]["type"], schemes["Key"]["scheme"]) == ("http", "bearer")
    assert (schemes["NamespaceHeader"]["in"], schemes["NamespaceHeader"]["name"]) == ("header", "X-Namespace")
    assert {"Key": []} in document["paths"][PATH]["post"]["security"]
    assert "security" not in document["paths"]["/v1/health"]["get"]
    assert not any(path.startswith("/docs") for path in document["paths"])
