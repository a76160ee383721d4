"""axe-core in a page: rules for people who use a keyboard, a screen reader or enlarged text."""

import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from selenium import webdriver

WHEEL = "axe_playwright_python-0.1.8-py3-none-any.whl"
RUN = """axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.flatMap((rule) =>
    rule.nodes.map((node) => `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary.replace(/\\s+/g, " ")}`)))"""


@cache
def _source() -> str:
    """Return axe-core, out of the wheel that `make test-browser` downloads."""
    path = Path(sys.prefix) / "share" / "tally" / WHEEL
    if not path.exists():
        raise FileNotFoundError(f"{path}: run `make test-browser`, which downloads it")
    with zipfile.ZipFile(path) as wheel:
        return wheel.read("axe_playwright_python/axe.min.js").decode()


def violations_of(driver: webdriver.Chrome) -> list[str]:
    """Return what the present page violates. DevTools runs the rules: the page's policy refuses foreign scripts."""
    _evaluate(driver, f"window.axe || (() => {{ {_source()} }})(); 0")
    found: list[str] = _evaluate(driver, RUN)
    return found


def _evaluate(driver: webdriver.Chrome, expression: str) -> Any:
    given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    answer = driver.execute_cdp_cmd("Runtime.evaluate", given)
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return answer["result"].get("value")
