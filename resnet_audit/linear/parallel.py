"""Many layers and many frequencies at once: one thread pool, each job computed by one thread.

A library's own threads do harm to batches of small eigenvalue problems (seen: 2 threads 10 to 200 times slower than
one); one job a thread is 1.5 to 1.9 times faster on two. So the functions of this package that decompose or sum hold
the library to one thread while they run, alone or in a pool, and give the same bits for any number of threads: how a
job is cut depends on the job alone, and results are put together in the order of the jobs.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np  # noqa: F401 - loads the library that `_numpy_library` looks for
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it has no type hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRIM_EVERY = 0.2
"""Seconds between two times that freed memory is given back: what short jobs leave behind is used by the next."""

Job = TypeVar("Job")
Value = TypeVar("Value")
Other = TypeVar("Other")

_lock = threading.Lock()
_outermost = ExitStack()
_before: list[int] = []
"""Thread counts found by the entries that have not left: the first is the user's, the last to leave restores it."""
_trimmed = [0.0]
"""When freed memory was last given back."""


class _Pool(ThreadPoolExecutor):
    """A pool whose threads begin no more parts once it has been left by an exception."""

    left = False


class _Crew(threading.local):
    """The pool that the current thread works for, and its number of threads."""

    pool: _Pool | None = None
    threads: int = 1


_crew = _Crew()


def map_layers(function: Callable[[Job], Value], jobs: Sequence[Job], threads: int) -> list[Value]:
    """`function` of every job, in the order of the jobs, on `threads` threads (at least 1).

    Inside `both` on one thread, or on those that have nothing else to do.
    """
    if _crew.pool is not None:
        return map_parts(function, jobs) if threads > 1 else [function(job) for job in jobs]
    with one_library_thread(), _pool(max(1, threads)) as pool:
        return list(pool.map(partial(_tidily, function), jobs))


def both(one: Callable[[], Value], other: Callable[[], Other], threads: int) -> tuple[Value, Other]:
    """What `one` and `other` return, at once if there are several threads; they share those by `map_layers`.

    Long products beside short ones: threads that all have only short ones wait for each other (measured).
    """
    with one_library_thread(), _pool(max(1, threads)) as pool:
        first, second = pool.submit(one), pool.submit(other)
        return first.result(), second.result()


def map_parts(function: Callable[[Job], Value], parts: Sequence[Job]) -> list[Value]:
    """`function` of every part of one layer, in order, by the caller and by threads that have nothing else to do.

    Inside `map_layers` those are the threads for which no layer is left; outside, as many as torch was given.
    """
    if len(parts) < 2:
        return [function(part) for part in parts]
    if _crew.pool is not None:
        return _shared(function, parts, _crew.pool, _crew.threads)
    with one_library_thread():
        threads = _before[0]
        with _pool(threads) as pool:
            return _shared(function, parts, pool, threads)


def _shared(function: Callable[[Job], Value], parts: Sequence[Job], pool: _Pool, threads: int) -> list[Value]:
    """The caller and the helpers take parts from one queue. A helper that starts late finds it empty and leaves."""
    queue = iter(range(len(parts)))
    found: dict[int, Value] = {}

    def work() -> None:
        while not pool.left:
            with _lock:
                index = next(queue, None)
            if index is None:
                return
            found[index] = _tidily(function, parts[index])
        raise CancelledError

    helpers: list[Future[None]] = [pool.submit(work) for _ in range(min(threads, len(parts)) - 1)]
    try:
        work()
    finally:
        started = [helper for helper in helpers if not helper.cancel()]
    for helper in started:
        helper.result()
    return [found[index] for index in range(len(parts))]


def _tidily(function: Callable[[Job], Value], job: Job) -> Value:
    """The function of a job, after which freed memory goes back to the system now and then.

    The C library, if it is glibc, keeps up to 64 MiB a thread: a fifth of the peak of a bound of a ResNet-50 on two
    threads. To give it back after every short job makes a small network fetch half as many pages again (both measured).
    """
    try:
        return function(job)
    finally:
        now = time.monotonic()
        if sys.platform == "linux" and now - _trimmed[0] > TRIM_EVERY:
            _trimmed[0] = now
            trim = getattr(_c_library(), "malloc_trim", None)
            if trim is not None:
                trim(0)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@contextmanager
def _pool(threads: int) -> Iterator[_Pool]:
    """A pool whose threads know it."""

    def join() -> None:
        _crew.pool, _crew.threads = pool, threads

    pool = _Pool(threads, initializer=join)
    with pool:
        try:
            yield pool
        except BaseException:
            pool.left = True
            raise


@contextmanager
def one_library_thread() -> Iterator[None]:
    """Hold torch and numpy to one thread inside; also a decorator.

    May be nested and entered from several threads at once. Of threads that overlap outside `map_layers`, those that
    leave early keep one library thread for themselves.
    """
    with _lock:
        if not _before:
            _outermost.enter_context(_numpy_library().limit(limits=1))
        _before.append(torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            # Entries may leave in any order, so the user's count is kept at the front until none is left.
            if len(_before) == 1:
                torch.set_num_threads(_before[0])
                _outermost.close()
            _before.pop()


@cache
def _numpy_library() -> ThreadpoolController:
    """The linear algebra under numpy, where it can be told its number of threads."""
    return ThreadpoolController().select(user_api="blas")
