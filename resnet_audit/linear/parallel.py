"""Many layers at once: a thread pool over layers, each computed by one thread.

A library's own threads do harm to batches of small eigenvalue problems (seen: 2 threads 10 to 200 times slower than
one); one layer a thread is 1.5 to 1.9 times faster on two. So the functions of this package that decompose or sum hold
the library to one thread while they run, alone or in a pool, and give the same bits for any number of threads.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Job = TypeVar("Job")
Value = TypeVar("Value")

_lock = threading.Lock()
_before: list[int] = []
"""Thread counts found by the entries that have not left: the first is the user's, the last to leave restores it."""


def map_layers(function: Callable[[Job], Value], jobs: Sequence[Job], threads: int) -> list[Value]:
    """`function` of every job, in the order of the jobs, on `threads` threads (at least 1)."""
    with one_library_thread(), ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(function, jobs))


@contextmanager
def one_library_thread() -> Iterator[None]:
    """Hold torch to one thread inside; also a decorator. May be nested and entered from several threads at once.

    Of threads that overlap outside `map_layers`, those that leave early keep one library thread for themselves.
    """
    with _lock:
        _before.append(torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            # Entries may leave in any order, so the user's count is kept at the front until none is left.
            if len(_before) == 1:
                torch.set_num_threads(_before[0])
            _before.pop()
