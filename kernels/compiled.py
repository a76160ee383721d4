"""Functions compiled to machine code when they are first called, and kept on disk for the next process.

They are plain loops over arrays, in the subset of Python that the compiler knows, for work on every byte.
"""

import atexit
import ctypes
import hashlib
import mmap
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
from llvmlite import binding

_config: Any = numba.config

Function = TypeVar("Function", bound=Callable[..., Any])

PACKAGES = ("kernels", "schemas")
"""Packages that compiled functions are in (the first), or take constants from."""

_OPTIONS: Any = {"nogil": True, "_nrt": False, "forceinline": True}
_FOLDER = "compiled-"


def compiled(function: Function) -> Function:
    """Compile a function of this package without bounds checks: it must not reach outside its arrays.

    It lets other threads run. It may call other such functions, and use constants of every module in PACKAGES.
    """
    before, compiling = _config.CACHE_DIR, cast(Any, numba.njit)
    _config.CACHE_DIR = str(_folder_for(Path(__file__).parents[1]))
    try:
        made: Function = compiling(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no writable folder: every process compiles it again
        made = compiling(**_OPTIONS)(function)
    finally:
        _config.CACHE_DIR = before
    return made


@cache
def _folder_for(root: Path) -> Path:
    """Return the folder for the machine code of the sources below `root`, one for each key."""
    folder = root / "kernels" / "__pycache__" / f"{_FOLDER}{key_of(root)}"
    return folder if os.access(folder, os.W_OK) or not folder.exists() else _copy_of(folder)


@cache
def key_of(root: Path) -> str:
    """Hash all inputs of the machine code: every source of PACKAGES, the compiler, and the processor.

    Functions contain the functions that they call and the constants that they use.
    """
    hashed = hashlib.blake2b(repr(_compiler()).encode(), digest_size=8)
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        text = path.read_bytes()
        hashed.update(b"%b %d " % (path.relative_to(root).as_posix().encode(), len(text)))
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


def remove_outdated() -> None:
    """Delete the machine code of outdated sources. Never deletes that of the present ones."""
    root = Path(__file__).parents[1]
    for folder in (root / "kernels").rglob(f"__pycache__/{_FOLDER}*"):
        if folder.name != f"{_FOLDER}{key_of(root)}":
            shutil.rmtree(folder, ignore_errors=True)


def release_compiler() -> None:
    """Return the memory of the compiler's code to the system, which reads it from its file when it is needed again.

    Only pages that nobody can write to are returned. Does nothing on other systems than Linux.
    """
    if sys.platform == "linux":
        advise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text().splitlines():
            extent, rights, *_ = line.split(maxsplit=2)
            if rights == "r-xp" and "/libllvmlite" in line:
                begin, end = (int(address, 16) for address in extent.split("-"))
                advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _copy_of(folder: Path) -> Path:
    """Copy the machine code of a read-only installation: the compiler reads only where it may also write."""
    try:
        # A private folder with a name that cannot be guessed: its contents are executed.
        copy = Path(tempfile.mkdtemp(prefix="tally-"))
    except OSError:
        return folder
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
