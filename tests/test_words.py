"""Words: docstrings open with a noun or a verb, the dialect's favourites are gone, and texts for operators stand alone.

`python -P -m tests.test_words` prints every finding of every package.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import metrics
from runtime.settings import Settings
from runtime.settings_doc import descriptions
from tests.test_packages import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PACKAGES = (*MAY_IMPORT, "benchmarks", "tests")
OTHERS = (".ci", "clients", "docs", "ARCHITECTURE.md", "CONTRIBUTING.md", "Makefile", "README.md", "docker-compose.yml")

OPENING = re.compile(
    r"\s*(what|who|whose|whom|those|of|so|it|its|they|them|their|this|that|these|he|his|she|her|we|our|you|your|"
    r"somebody|anybody|nobody|whoever|whatever)\b",
    re.IGNORECASE,
)
"""First words that a docstring must not have: free relatives, and pronouns without an antecedent."""
BANNED = {
    name: re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])".replace(" ", "[ _]"), re.IGNORECASE)
    for name, pattern in {
        "anew": "anew",
        "mend": "mend(?:s|ed|ing)?",
        "so many": "so many",
        "lies in": "(?:lies|lie|lying) (?:in|on|at|there|elsewhere)",
        "is told": "(?:is|are|was|were|be|been) told",
        "how manieth": "manieth",
        "goes on": "(?:goes|go|went) on",
        "dear": "dear(?:er|est)?",
        "what_is": "def [a-z_]*what_is[a-z_]*",
    }.items()
}
"""Words and phrases that no text has, identifiers included."""
TEXT_FILES = (
    ".py",
    ".md",
    ".yml",
    ".yaml",
    ".sh",
    ".sql",
    ".lua",
    ".js",
    ".css",
    ".html",
    ".xml",
    ".acl",
    ".conf",
    ".properties",
    ".toml",
)
NAMES_WITHOUT_ENDING = ("Makefile", "Dockerfile", "run")
NOT_READ = ("tests/test_words.py",)


def files_of(part: str) -> Iterator[Path]:
    """Yield the text files of a package, a folder or a single file."""
    top = ROOT / part
    for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
        is_text = path.suffix in TEXT_FILES or path.name in NAMES_WITHOUT_ENDING
        if path.is_file() and is_text and str(path.relative_to(ROOT)) not in NOT_READ:
            yield path


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, also of constants and fields: strings that are statements."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def findings(part: str) -> Iterator[str]:
    """Yield everything that is wrong in a package or a file."""
    for path in files_of(part):
        name = path.relative_to(ROOT)
        if path.suffix == ".py":
            for line, text in docstrings(path):
                if OPENING.match(text):
                    yield f"{name}:{line}: docstring opening: {text.strip().splitlines()[0]}"
        for line, text in enumerate(path.read_text().splitlines(), start=1):
            for banned, pattern in BANNED.items():
                if pattern.search(text):
                    yield f"{name}:{line}: {banned!r}: {text.strip()}"


def stands_alone(sentence: str) -> bool:
    """Return whether a text is a sentence that needs no other one: a capital or a literal first, a period last."""
    begins = sentence[:1].isupper() or sentence[:1].isdigit() or re.match(r"`|\w+\.\w", sentence)
    return bool(begins and sentence.endswith(".") and not OPENING.match(sentence))


def tally_errors() -> Iterator[tuple[str, str]]:
    """Yield name and docstring of TallyError and of every class that derives from it."""
    known = {"TallyError"}
    classes = [
        node
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    found = 0
    while found != len(known):
        found = len(known)
        known |= {node.name for node in classes if {getattr(base, "id", "") for base in node.bases} & known}
    for node in classes:
        if node.name in known:
            yield node.name, ast.get_docstring(node) or ""


@pytest.mark.parametrize("part", [*PACKAGES, *OTHERS])
def test_words_are_plain(part: str) -> None:
    assert not list(findings(part))


def test_the_meaning_of_an_error_stands_alone() -> None:
    found = dict(tally_errors())
    assert "SettingsError" in found
    assert {name: text for name, text in found.items() if not stands_alone(text)} == {}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_meaning_of_a_setting_stands_alone(name: str) -> None:
    text = descriptions().get(name, "")
    assert stands_alone(text), f"{name}: {text}"


@pytest.mark.parametrize("metric", metrics.every_metric(), ids=metrics.name_of)
def test_the_meaning_of_a_metric_stands_alone(metric: metrics.Metric) -> None:
    assert stands_alone(metrics.help_of(metric)), metrics.help_of(metric)


@pytest.mark.parametrize(
    "text", ["What is kept of a key.", "It is compiled.", "requests in flight.", "Requests in flight", ""]
)
def test_a_text_that_does_not_stand_alone_is_found(text: str) -> None:
    assert not stands_alone(text)


if __name__ == "__main__":
    for each in (*PACKAGES, *OTHERS):
        sys.stdout.writelines(f"{finding}\n" for finding in findings(each))
