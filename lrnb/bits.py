"""bfloat16 inside compiled loops: its bits as float32, and back, in instructions that run on vectors."""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def as_float(_context: Any, x: Any) -> Any:
    """float32 of a float32, or of the bits of a bfloat16."""
    if x == types.float32:
        return types.float32(x), lambda context, builder, sig, args: args[0]
    if x != types.uint16:
        return None

    def widen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        wide = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(x), widen


@intrinsic
def from_float(_context: Any, x: Any, like: Any) -> Any:
    """A finite float32 as the type of `like`; bfloat16 rounds to nearest, ties to even."""
    if like == types.float32:
        return like(x, like), lambda context, builder, sig, args: args[0]
    if like != types.uint16:
        return None

    def narrow(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return like(x, like), narrow
