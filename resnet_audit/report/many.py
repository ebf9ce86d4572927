"""Many files: whoever audits them, each result is kept as it comes and handed on in the order of the files.

A process that dies takes no result with it. The files that were in hand are tried again, one at a time; a file during
whose second trial the process dies again is the one to blame, and gets an error.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from resnet_audit.checkpoint.remote import is_of_this_process
from resnet_audit.errors import UsageError
from resnet_audit.report.cluster import Cluster
from resnet_audit.report.report import audit_one, not_audited, outcome_of
from resnet_audit.report.resume import kept
from resnet_audit.report.workers import Alone, Direct, Processes
from resnet_audit.settings import Many, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from concurrent.futures import Executor, Future
    from contextlib import AbstractContextManager

    from resnet_audit.report.report import One, Outcome, Work
    from resnet_audit.report.resume import Kept, Line
    from resnet_audit.report.workers import Crew
    from resnet_audit.settings import Progress, Settings

DIED = "the process that audited it died twice (killed, or out of memory); try it with fewer at once"


def nobody(one: One) -> None:
    """The listener of a caller who waits for the whole document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told. done: called with each result, in the order of the files, as soon as it and those before are there.

    line: how `--resume` writes a document.
    """

    progress: Progress = no_progress
    done: Callable[[One], None] = nobody
    line: Line | None = None


ONE, UNWATCHED = Many(), Watch()


def audit_all(paths: Sequence[str], command: str, work: Work, *, many: Many = ONE, watch: Watch = UNWATCHED) -> Outcome:
    """The document of `command` over all `paths`, the same whoever computes it and however often it was interrupted.

    Raises UsageError where `many` cannot be had, AuditError where results cannot be kept.
    """
    # How many processors there are, each process would answer for itself.
    work = replace(work, settings=replace(work.settings, threads=work.settings.thread_count))
    crew = _crew(many, paths, work.settings, watch.progress)
    waiting: dict[int, One] = {}
    ones: list[One] = []
    with _store(many, command, work, watch) as store:
        if store is not None:
            work = replace(work, run=store.run, held=store.keys)
        with closing(_Files(paths, work, crew).results()) as found:
            for count, (index, one) in enumerate(found, start=1):
                waiting[index] = one if store is None else store.settled(one)
                if not isinstance(crew, Alone):
                    watch.progress("checkpoints", count, len(paths))
                while len(ones) in waiting:
                    ones.append(waiting.pop(len(ones)))
                    watch.done(ones[-1])
    return outcome_of(command, work.settings, ones)


def _crew(many: Many, paths: Sequence[str], settings: Settings, progress: Progress) -> Crew:
    if many.dask is not None:
        named = (settings.data, settings.patterns, settings.reference)
        return Cluster(many.dask, [path for path in (*paths, *named) if path is not None])
    return Processes(min(many.workers, len(paths))) if many.workers > 1 and paths else Alone(progress)


def _store(many: Many, command: str, work: Work, watch: Watch) -> AbstractContextManager[Kept | None]:
    if many.resume is None:
        return nullcontext()
    if watch.line is None:
        raise UsageError("--resume needs to know how results are written; give a Watch with `line`")
    return kept(many.resume, command, work, watch.line)


class _Files:
    """Files on their way through a crew."""

    def __init__(self, paths: Sequence[str], work: Work, crew: Crew) -> None:
        self.paths, self.work, self.crew = paths, work, crew
        self.queue = deque(range(len(paths)))
        self.suspects: set[int] = set()
        """Files that were in hand when a process died."""

    def results(self) -> Generator[tuple[int, One], None, None]:
        """(index, result) of every path, as they finish."""
        while self.queue:
            with self.crew.executor(self.work) as executor:
                lost = yield from self._until_one_dies(executor)
            for index in sorted(lost & self.suspects):
                yield index, not_audited(self.paths[index], DIED)
            self.queue.extendleft(sorted(lost - self.suspects, reverse=True))
            self.suspects |= lost

    def _until_one_dies(self, executor: Executor) -> Generator[tuple[int, One], None, set[int]]:
        """Audit from the head of the queue. Returns the files that were in hand when a process died, or none."""
        running: dict[Future[One], int] = {}
        lost: set[int] = set()
        broken = False
        while running or (self.queue and not broken):
            while self.queue and not broken and self._has_room(running):
                try:
                    future = self._begun(executor, self.paths[self.queue[0]])
                except self.crew.lost:
                    broken = True
                else:
                    running[future] = self.queue.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                try:
                    one = future.result()
                except self.crew.lost:
                    broken = True
                    lost.add(index)
                    continue
                except Exception as error:  # noqa: BLE001 - of whatever stands between us and the process
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    one = not_audited(self.paths[index], f"{reason}; run it again")
                yield index, one
        return lost

    def _begun(self, executor: Executor, path: str) -> Future[One]:
        if is_of_this_process(path) and not isinstance(self.crew, Alone):
            return Direct().submit(partial(audit_one, work=self.work), path)
        return executor.submit(self.crew.task(self.work), path)

    def _has_room(self, running: Mapping[Future[One], int]) -> bool:
        """Whether the next file may be begun beside those that are running: a suspect has the crew for itself."""
        if not running:
            return True
        alone = self.suspects & {self.queue[0], *running.values()}
        return len(running) < self.crew.width and not alone
