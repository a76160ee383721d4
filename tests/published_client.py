"""The published Python client of other servers, imported in parts.

Its packages import all of their 1,300 models, which takes 5 s of CPU in every process of the tests.
"""

import re
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

PACKAGES = ("mixpeek", "mixpeek.api", "mixpeek.models")
_IMPORT = re.compile(r"^\s*from (mixpeek\.[\w.]+) import (\w+)", re.MULTILINE)


def import_in_parts() -> None:
    """Replace the packages by empty ones that import a name at its first use, from the module that theirs name."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        module = sys.modules[package] = module_from_spec(spec)
        modules = {name: module for module, name in _IMPORT.findall(Path(spec.origin).read_text())}

        def imported(name: str, modules: dict[str, str] = modules) -> Any:
            if name not in modules:
                raise AttributeError(name)
            return getattr(import_module(modules[name]), name)

        module.__getattr__ = imported  # type: ignore[method-assign]
        parent, _, name = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, module)
