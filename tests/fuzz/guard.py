"""Arrays between pages that nothing may touch: the first byte outside of one ends the process (SIGSEGV).

Compiled code checks no bounds. Where it is allowed to run over an end (`kernels/wide.py`), its caller makes the array
that much larger, so the end of each array is the end of what may be touched.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Bytes = npt.NDArray[np.uint8]


class Region:
    """Memory of a fixed size between two guard pages."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // PAGE) * PAGE or PAGE
        self._memory = mmap.mmap(-1, self.size + 2 * PAGE)
        whole: Bytes = np.frombuffer(self._memory, np.uint8)
        for begin in (0, PAGE + self.size):
            if _libc.mprotect(whole.ctypes.data + begin, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "a guard page cannot be made")

    def array(self, shape: Any, dtype: Any, *, at_end: bool = True) -> npt.NDArray[Any]:
        """An array whose last byte is before the guard page, or whose first byte is after the other one."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        begin = PAGE + (self.size - size if at_end else 0)
        return np.ndarray(shape, dtype, buffer=self._memory, offset=begin)

    def text(self, raw: bytes, *, at_end: bool = True) -> Bytes:
        """A copy of bytes, read-only as all texts are."""
        text = self.array(len(raw), np.uint8, at_end=at_end)
        text[:] = np.frombuffer(raw, np.uint8)
        text.flags.writeable = False
        return text


def guarded(shape: Any, dtype: Any) -> npt.NDArray[Any]:
    """A new array in a region of its own, filled with non-zero bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    array = Region(size).array(shape, dtype)
    if size:
        array.reshape(-1).view(np.uint8).fill(0xA5)
    return array


class _GuardedNumpy:
    """numpy whose constructors return guarded arrays."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
        return guarded(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
        array = guarded(shape, dtype)
        array.fill(0)
        return array

    def frombuffer(self, buffer: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
        return _copied(np.frombuffer(buffer, dtype))

    def concatenate(self, arrays: Any) -> npt.NDArray[Any]:
        return _copied(np.concatenate(arrays))

    def ascontiguousarray(self, array: Any) -> npt.NDArray[Any]:
        return _copied(np.ascontiguousarray(array))


def _copied(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    copy = guarded(array.shape, array.dtype)
    copy[...] = array
    copy.flags.writeable = array.flags.writeable
    return copy


@contextmanager
def numpy_guarded_in(*modules: Any) -> Iterator[None]:
    """Make the arrays that these modules make guarded ones. What they compile must be compiled already."""
    for module in modules:
        module.np = _GuardedNumpy()
    try:
        yield
    finally:
        for module in modules:
            module.np = np
