"""How the process uses the memory of the machine."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_KEPT = 2**31 - 1  # the largest number that mallopt takes
_MMAPPED = 2**30


@functools.cache
def keep_freed_memory() -> bool:
    """Let the allocator keep up to 2 GiB that tensors on the CPU have given back, for the next.

    Otherwise glibc returns large blocks to the system at once, and every large tensor costs a page
    fault per 4 KiB, about a tenth of the time of a forward pass. A choice of the user, made by
    environment variables, stands; other allocators and systems are left alone. Processes forked
    from this one, as the workers of data loaders are, keep memory too.

    Returns:
        whether the allocator was told.
    """
    chosen = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in chosen):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Older versions of glibc refuse a threshold beyond 32 MiB; there nothing is mapped on its own.
    told = mallopt(_M_MMAP_THRESHOLD, _MMAPPED) == 1 or mallopt(_M_MMAP_MAX, 0) == 1
    return told and mallopt(_M_TRIM_THRESHOLD, _KEPT) == 1
