"""Operations on 32 bytes at a time, for compiled functions: one or two instructions each, instead of a loop.

None of them checks bounds: 32 bytes from each position must be within its array.
"""

# ruff: noqa: ARG001  (the compiler takes the parameters from the making function)

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

WIDE = 32

_BYTES = ir.VectorType(ir.IntType(8), WIDE)
_MASK = ir.IntType(WIDE)
_NUMBER = ir.IntType(64)
_FIRST_PRINTABLE, _QUOTE, _BACKSLASH = 32, 34, 92

intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = cast(Any, extending).intrinsic
"""Decorator of a function that returns the type of a function for compiled ones, and the generator of its code."""


@intrinsic
def plain_bytes(context: Any, text: Any, at: Any) -> Any:
    """Count the bytes from a position on that are plain in a JSON string: printable ASCII, no quote, no backslash."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chunk = _load(context, builder, signature, arguments, 0)
        # Compared as signed numbers, bytes beyond ASCII are below 0.
        special = builder.icmp_signed("<", chunk, _all(_FIRST_PRINTABLE))
        for byte in (_QUOTE, _BACKSLASH):
            special = builder.or_(special, builder.icmp_unsigned("==", chunk, _all(byte)))
        return _bytes_before(builder, special)

    return types.int64(text, types.int64), generate


@intrinsic
def same_bytes(context: Any, text: Any, at: Any, other: Any, other_at: Any) -> Any:
    """Count the equal bytes from two positions on, 32 at most."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = _load(context, builder, signature, arguments, 0)
        two = _load(context, builder, signature, arguments, 2)
        return _bytes_before(builder, builder.icmp_unsigned("!=", one, two))

    return types.int64(text, types.int64, other, types.int64), generate


@intrinsic
def copy_wide(context: Any, text: Any, at: Any, into: Any, into_at: Any) -> Any:
    """Copy 32 bytes from one position to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chunk = _load(context, builder, signature, arguments, 0)
        builder.store(chunk, _address(context, builder, signature, arguments, 2), align=1)
        return context.get_dummy_value()

    return types.void(text, types.int64, into, types.int64), generate


def _address(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    """Return the address in the array of argument `number`, at the position of the next argument."""
    array = context.make_array(signature.args[number])(context, builder, arguments[number])
    return builder.bitcast(builder.gep(array.data, [arguments[number + 1]]), _BYTES.as_pointer())


def _load(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    return builder.load(_address(context, builder, signature, arguments, number), align=1)


def _all(byte: int) -> Any:
    return ir.Constant(_BYTES, [byte] * WIDE)


def _bytes_before(builder: Any, found: Any) -> Any:
    """Return the index of the first byte that is found; WIDE when none is."""
    mask = builder.bitcast(found, _MASK)
    return builder.zext(builder.cttz(mask, ir.Constant(ir.IntType(1), 0)), _NUMBER)
