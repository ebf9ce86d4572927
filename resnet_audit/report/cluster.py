"""A dask cluster as a crew: the same audits on the workers of a scheduler that is there already."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from resnet_audit.checkpoint.remote import is_spooled
from resnet_audit.errors import UsageError
from resnet_audit.report.report import audit_one
from resnet_audit.report.resume import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from resnet_audit.report.report import One, Work

PATIENCE = 5
"""Seconds in which a scheduler must answer."""

ARRIVAL = 30
"""Seconds in which one of its workers must be there, anew if the last one has died."""

_one_audit = threading.Lock()


class Cluster:
    """The workers of the dask scheduler at `address`, each with one file at a time.

    paths: all that a worker opens.
    """

    width = 1
    lost: type[Exception] = UsageError

    def __init__(self, address: str, paths: Sequence[str]) -> None:
        self.address, self.paths = address, paths

    @contextmanager
    def executor(self, work: Work) -> Iterator[Executor]:
        """The cluster as an executor; what it has not begun is withdrawn on leaving.

        Raises UsageError where distributed is not installed, no scheduler answers, it has no workers, or these would
        read or compute something else than this process.
        """
        del work
        try:
            import distributed  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            why = "distributed is not installed; pip install 'resnet-audit[dask]' brings it"
            raise UsageError(f"--dask {self.address}: {why}") from None
        with _client(distributed, self.address) as client:
            self.width = _number_of_workers(client, self.address)
            if self.lost is UsageError:  # the first time; workers that are dying cannot be asked
                _require_alike(client, self.address, self.paths)
            self.lost = distributed.KilledWorker
            executor = client.get_executor(pure=False)
            try:
                yield executor
            finally:
                executor.shutdown(wait=False)

    def task(self, work: Work) -> Callable[[str], One]:
        """The audit of one file, alone in its process."""
        return partial(_in_turn, work=work)


def _in_turn(path: str, work: Work) -> One:
    """A worker may have threads for several files; the number of threads of a library is one for all of them."""
    with _one_audit:
        return audit_one(path, work)


def _client(distributed: Any, address: str) -> Any:  # noqa: ANN401 - the module and its class have no types
    """A client of the scheduler. Raises UsageError where none answers."""
    try:
        # A client that cannot parse its address complains once more as it goes.
        distributed.comm.resolve_address(address)
        return distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:  # noqa: BLE001 - depends on the transport that the address names
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        todo = "start one with `dask scheduler`, or use --workers"
        raise UsageError(f"--dask {address}: no scheduler answers there ({reason}); {todo}") from None


def _number_of_workers(client: Any, address: str) -> int:  # noqa: ANN401 - as above
    """How many workers there are. Raises UsageError where none comes."""
    try:
        client.wait_for_workers(1, timeout=ARRIVAL)
    except TimeoutError:
        todo = f"start one with `dask worker {address}`"
        raise UsageError(f"--dask {address}: the scheduler has no workers; {todo}") from None
    return len(client.nthreads())


def _require_alike(client: Any, address: str, paths: Sequence[str]) -> None:  # noqa: ANN401 - as above
    """Raises UsageError unless the workers have our versions and find the same files by these paths."""
    for package in PACKAGES:
        ours, theirs = version(package), client.run(version, package, on_error="return")
        other = next((f"{found}" for found in theirs.values() if found != ours), None)
        if other is not None:
            todo = "install the same on all of them"
            raise UsageError(f"--dask {address}: a worker has {package} {other} where this has {ours}; {todo}")
    here = os.getcwd()  # noqa: PTH109 - as the workers say it
    relative = [path for path in paths if not (is_spooled(path) or os.path.isabs(path))]  # noqa: PTH117 - a path as given
    elsewhere = [folder for folder in client.run(os.getcwd).values() if folder != here]
    if relative and elsewhere:
        where = f"a worker runs in {elsewhere[0]}, where {relative[0]} is another file"
        raise UsageError(f"--dask {address}: {where}; name files by whole paths")
