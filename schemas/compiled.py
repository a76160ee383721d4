"""Functions compiled to machine code when they are first called, and kept on disk for the next process.

They are plain loops over arrays, in the part of Python that the compiler knows: for what has to look at every byte.
"""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

_config: Any = numba.config

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS: Any = {"nogil": True, "_nrt": False, "forceinline": True}
_MARKS = b"@compiled\n", b"@intrinsic\n"


def compiled(function: Function) -> Function:
    """Compile a function without bounds checks: it must not reach outside its arrays. It lets other threads run.

    It may call other such functions of its own folder.
    """
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(_folder_for(Path(sys.modules[function.__module__].__file__ or "").parent))
    try:
        return _compile(function)
    finally:
        _config.CACHE_DIR = before


def _compile(function: Function) -> Function:
    compiling: Any = numba.njit
    try:
        made: Function = compiling(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep it: every process compiles it anew
        made = compiling(**_OPTIONS)(function)
    return made


@cache
def _folder_for(sources: Path) -> Path:
    """Another one whenever any of the functions in a folder changes: each contains those that it calls."""
    hashed = hashlib.blake2b(digest_size=8)
    for path in sorted(sources.glob("*.py")):
        text = path.read_bytes()
        if any(mark in text for mark in _MARKS):
            hashed.update(text)
    folder = sources / "__pycache__" / f"compiled-{hashed.hexdigest()}"
    return folder if os.access(folder, os.W_OK) or not folder.exists() else _copied(folder)


def _copied(folder: Path) -> Path:
    """A read-only installation: the compiler reads only where it may also write."""
    try:
        # Nobody else's folder, and none whose name can be guessed: what lies in it is run.
        copy = Path(tempfile.mkdtemp(prefix="tally-"))
    except OSError:
        return folder
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
