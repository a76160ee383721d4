"""Functions compiled to machine code when they are first called, and kept on disk for the next process.

They are plain loops over arrays, in the subset of Python that the compiler knows, for work on every byte.
"""

import atexit
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
from llvmlite import binding

_config: Any = numba.config

Function = TypeVar("Function", bound=Callable[..., Any])

PACKAGES = ("kernels", "schemas")
"""Packages that compiled functions may be in, or take constants from."""

_OPTIONS: Any = {"nogil": True, "_nrt": False, "forceinline": True}
_FOLDER = "compiled-"


def compiled(function: Function) -> Function:
    """Compile a function without bounds checks: it must not reach outside its arrays. It lets other threads run.

    It may call other such functions, and use constants of every module in PACKAGES.
    """
    before = _config.CACHE_DIR
    source = Path(sys.modules[function.__module__].__file__ or "")
    _config.CACHE_DIR = str(_folder_for(source.parent, source.parents[function.__module__.count(".")]))
    try:
        return _compile(function)
    finally:
        _config.CACHE_DIR = before


def _compile(function: Function) -> Function:
    compiling: Any = numba.njit
    try:
        made: Function = compiling(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no writable folder: every process compiles it again
        made = compiling(**_OPTIONS)(function)
    return made


@cache
def _folder_for(sources: Path, root: Path) -> Path:
    """Return the folder for the machine code of a source folder, one for each key."""
    folder = sources / "__pycache__" / f"{_FOLDER}{key_of(sources.relative_to(root).parts[0], root)}"
    return folder if os.access(folder, os.W_OK) or not folder.exists() else _copy_of(folder)


@cache
def key_of(package: str, root: Path) -> str:
    """Hash all inputs of the machine code of a package's functions.

    Functions contain the functions that they call and the constants that they use. So the inputs are every source of
    the package and of the packages that it imports, the compiler, and the processor.
    """
    hashed = hashlib.blake2b(repr(_compiler()).encode(), digest_size=8)
    for name, text in _sources(package, root):
        hashed.update(b"%b %d " % (name.encode(), len(text)))
        hashed.update(text)
    return hashed.hexdigest()


def _compiler() -> tuple[object, ...]:
    """List the versions of the compiler, the processor, and the compiler settings that change the code."""
    return (
        platform.python_implementation(),
        platform.python_version(),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        platform.machine(),
        _config.CPU_NAME or binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten() if _config.CPU_FEATURES is None else _config.CPU_FEATURES,
        *(getattr(_config, name) for name in ("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE")),
        sorted(_OPTIONS.items()),
    )


def _sources(package: str, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the sources of a package, and of those of PACKAGES that it imports, in a fixed order."""
    others, reached = [each for each in PACKAGES if each != package], [package]
    for name in reached:
        for path in sorted((root / name).rglob("*.py")):
            text = path.read_bytes()
            yield path.relative_to(root).as_posix(), text
            for other in [each for each in others if b"from %b" % each.encode() in text]:
                others.remove(other)
                reached.append(other)


def remove_outdated() -> None:
    """Delete the machine code of outdated sources. Never deletes that of the present ones."""
    root = Path(__file__).parents[1]
    for package in PACKAGES:
        for folder in (root / package).rglob(f"__pycache__/{_FOLDER}*"):
            if folder.name != f"{_FOLDER}{key_of(package, root)}":
                shutil.rmtree(folder, ignore_errors=True)


def _copy_of(folder: Path) -> Path:
    """Copy the machine code of a read-only installation: the compiler reads only where it may also write."""
    try:
        # A private folder with a name that cannot be guessed: its contents are executed.
        copy = Path(tempfile.mkdtemp(prefix="tally-"))
    except OSError:
        return folder
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
