"""What the compiled loops stand on: how they are compiled and cached, and bfloat16 inside them."""

# mypy: ignore-errors
# (numba infers the types of these functions when they are first called)

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

HERE = Path(__file__).parent


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled when first called, without the GIL, and cached beside the package's bytecode.

    numba would look at the file of `function` alone and go on using old code where one of the loops that
    it calls has changed; so the cache's folder is named after the sources of all of them.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_cache_folder(before))
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


def leave_out_blas() -> None:
    """Let numba start without scipy's linear algebra, which no loop here calls; a start of 0.1 s and more.

    For a process that ends with its command: numba compiles no product of matrices in it afterwards.
    """
    if not {"scipy.linalg", "numba.np.arraymath"} & sys.modules.keys():
        sys.modules["scipy.linalg"] = None  # what numba looks for
        try:
            import numba.np.arraymath  # noqa: F401
        finally:
            del sys.modules["scipy.linalg"]


@functools.cache
def _cache_folder(given: str) -> Path:
    """Once a process: there are many loops, and the files are read for the name."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _sources())).hexdigest()[:12]
    return (Path(given) if given else HERE / "__pycache__") / f"lrnb-loops-{digest}"


def _sources() -> list[Path]:
    """Every file that may hold compiled loops: all of merging and of what is counted about it."""
    return sorted([*HERE.rglob("*.py"), *HERE.with_name("conflicts").glob("*.py")])


@intrinsic
def as_float(_context: Any, x: Any) -> Any:
    """A float32 or float64 as it is, the bits of a bfloat16 as float32."""
    if x in (types.float32, types.float64):
        return x(x), lambda context, builder, sig, args: args[0]
    if x != types.uint16:
        return None

    def widen(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        wide = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(x), widen


@intrinsic
def from_float(_context: Any, x: Any, like: Any) -> Any:
    """A number of the type of `like` as it is; a float32 to bfloat16 is rounded to nearest, ties to even."""
    if x == like:
        return like(x, like), lambda context, builder, sig, args: args[0]
    if (x, like) != (types.float32, types.uint16):
        return None

    def narrow(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        short = builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))
        nan = builder.fcmp_unordered("uno", args[0], args[0])  # the addition can carry a NaN over to 0
        return builder.select(nan, ir.Constant(ir.IntType(16), 0x7FC0), short)

    return like(x, like), narrow
