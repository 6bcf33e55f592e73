"""How the CPU kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function with numba at its first call, for one set of argument types at a time.

    It releases the GIL. The machine code is cached beside the source or, where that is read-only,
    in the user's cache folder; where neither can be written to, numba refuses to cache at all, and
    the function is compiled anew in each process.
    """
    # A division by zero must give inf as in numpy: Python's error would cost a branch each.
    try:
        kernel = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        kernel = njit(nogil=True, error_model="numpy")(function)
    return cast(Callable[P, R], kernel)
