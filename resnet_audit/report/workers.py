"""Who audits the files: this process, or several. Each crew is a `concurrent.futures.Executor` and the task for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from resnet_audit.report.registry import ANALYSES
from resnet_audit.report.report import audit_one
from resnet_audit.settings import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resnet_audit.report.report import One, Work
    from resnet_audit.settings import Progress

Given = ParamSpec("Given")
Value = TypeVar("Value")


class Crew(Protocol):
    """Who audits. width: files at once; lost: what a future raises if the process that had its file is gone."""

    @property
    def width(self) -> int:
        """How many files are in hand at once."""

    @property
    def lost(self) -> type[Exception]:
        """What a future raises if the process that had its file died."""

    def executor(self, work: Work) -> AbstractContextManager[Executor]:
        """An executor for `task`; leaving it by an exception ends at once what it still does."""

    def task(self, work: Work) -> Callable[[str], One]:
        """What the executor calls with a path."""


class Direct(Executor):
    """Calls at once, here: what is submitted is done when `submit` returns."""

    def submit(self, fn: Callable[Given, Value], /, *args: Given.args, **kwargs: Given.kwargs) -> Future[Value]:
        """A future that is done. Raises what `fn` raises."""
        future: Future[Value] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Alone:
    """One file after the other, in this process."""

    width = 1
    lost = BrokenProcessPool  # which nothing here raises

    def __init__(self, progress: Progress = no_progress) -> None:
        self.progress = progress

    def executor(self, work: Work) -> AbstractContextManager[Executor]:
        """An executor that calls."""
        del work
        return Direct()

    def task(self, work: Work) -> Callable[[str], One]:
        """The audit of one file, which tells its progress."""
        return partial(audit_one, work=work, progress=self.progress)


PRELOADED = ["resnet_audit.graph", "resnet_audit.measure", *(home.partition(":")[0] for home in ANALYSES.values())]
"""What the processes share, torch with it, imported once however many there are and however often one dies."""


class Processes:
    """`width` processes of this machine, forked from one that has imported torch and has used nothing of it.

    torch does not survive a fork of a process that has computed with it.
    """

    lost = BrokenProcessPool

    def __init__(self, width: int) -> None:
        self.width = width

    @contextmanager
    def executor(self, work: Work) -> Iterator[Executor]:
        """A pool whose processes know `work`; they are started as files come."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        before = set(multiprocessing.active_children())
        with _sheltered():
            pool = _Pool(self.width, mp_context=context, initializer=_begin, initargs=(work,))
        try:
            yield pool
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def task(self, work: Work) -> Callable[[str], One]:
        """The audit of one file by the work that the process began with."""
        del work
        return _serve


class _Pool(ProcessPoolExecutor):
    def submit(self, fn: Callable[Given, Value], /, *args: Given.args, **kwargs: Given.kwargs) -> Future[Value]:
        """As of every pool, which may start a process here."""
        with _sheltered():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _sheltered() -> Iterator[None]:
    """What is started inside never sees an interrupt from the keyboard, and imports nothing from the current folder.

    The interrupt is the parent's. The folder may hold a `torch.py` beside the checkpoints.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with _variable("PYTHONSAFEPATH", "1"):
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    usual = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if usual is None:
            del os.environ[name]
        else:
            os.environ[name] = usual


class _Desk:
    """What a worker process has before it."""

    work: Work


def _begin(work: Work) -> None:
    """Begin as a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Desk.work = work
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this process when its parent has died: nobody else would tell it that no file comes any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(2)


def _serve(path: str) -> One:
    return audit_one(path, _Desk.work)
