"""A bounded queue of jobs for one computing thread, in the order in which they came."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import ceil
from typing import Literal

from ...runtime.errors import (
    BundleError,
    EngineError,
    FlowshipError,
    NonFiniteError,
    UsageError,
)
from ...runtime.flow import Flow
from ...runtime.progress import say
from .messages import (
    LAST_EVENTS,
    Cancelled,
    Done,
    Error,
    Event,
    Progress,
    Queued,
)
from .models import Models
from .work import Work

State = Literal["waiting", "running", "delivering"]
FIRST_GUESS = 1.0  # seconds of a job, before one was measured
MAX_RETRY = 600  # seconds
_KINDS = (
    (UsageError, "usage"),
    (BundleError, "bundle"),
    (EngineError, "engine"),
    (NonFiniteError, "non_finite"),
    (FlowshipError, "engine"),
    (MemoryError, "memory"),
)


class BusyError(Exception):
    """The queue is full; ``retry_after`` is the expected time in seconds until there is room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full: try again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class JobInfo:
    """A job in ``GET /api/jobs``."""

    id: str
    kind: str
    state: State
    position: int
    fraction: float


class Job:
    """One piece of work and the events that its client has not read yet.

    Its methods belong to the event loop, but ``cancelled``, which the computing thread looks at.
    """

    def __init__(self, kind: str, work: Work, bundle: str | None, precision: str | None) -> None:
        self.id, self.kind, self.work = secrets.token_hex(8), kind, work
        self.bundle, self.precision = bundle, precision
        self.cancelled = threading.Event()
        self.state: State = "waiting"
        self.fraction, self.ended = 0.0, False
        self._events: deque[Event] = deque()
        self._told = asyncio.Event()

    def tell(self, event: Event) -> None:
        """Add an event; one that the client has not read and that is out of date goes away."""
        if self.ended:
            return
        if isinstance(event, Progress):
            self.fraction = event.fraction
        outdated = self._events and type(self._events[-1]) is type(event)
        if outdated and isinstance(event, (Progress, Queued)):
            self._events.pop()
        self._events.append(event)
        self.ended = isinstance(event, LAST_EVENTS)
        self._told.set()

    @property
    def is_read(self) -> bool:
        """Whether there is nothing more to read."""
        return self.ended and not self._events

    async def next_event(self, seconds: float) -> Event | None:
        """The next event; None where none comes in time."""
        if not self._events:
            self._told.clear()
            try:
                await asyncio.wait_for(self._told.wait(), seconds)
            except (asyncio.TimeoutError, TimeoutError):
                return None
        return self._events.popleft()


class JobQueue:
    """Runs jobs one after another in a thread of its own.

    Args:
        models: used by that thread alone.
        max_jobs: jobs that wait, run, or whose results are not read to the end, all together: the
            bound on memory.
    """

    def __init__(self, models: Models, max_jobs: int) -> None:
        self._models, self._max_jobs = models, max_jobs
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, "flowship-compute")
        self._running: asyncio.Task[None] | None = None
        self._average, self._stopping = FIRST_GUESS, False

    # -- for requests ------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Put it at the end of the queue.

        Raises:
            BusyError: the queue is full.
            StoppingError: it takes no more.
        """
        if self._stopping:
            raise StoppingError("the server is shutting down")
        if len(self._jobs) >= self._max_jobs:
            wait = self._average * max(1, len(self._waiting))
            raise BusyError(min(MAX_RETRY, max(1, ceil(wait / self._max_jobs))))
        self._jobs[job.id] = job
        self._waiting.append(job)
        job.tell(Queued(job.id, len(self._waiting) - 1))
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def follow(self, job: Job, keep_alive: float) -> AsyncIterator[Event | None]:
        """The events of a submitted job, None after every ``keep_alive`` seconds of silence.

        A reader that leaves cancels the job.
        """
        try:
            while not job.is_read:
                yield await job.next_event(keep_alive)
        finally:
            self.cancel(job.id)
            self._jobs.pop(job.id, None)

    def cancel(self, name: str) -> bool:
        """Take a job out of the queue, or stop it between two engine calls; False: no such job."""
        job = self._jobs.get(name)
        if job is None or job.ended:
            return False
        job.cancelled.set()
        if job in self._waiting:
            self._waiting.remove(job)
            self._tell_positions()
        job.tell(Cancelled())
        return True

    def list(self) -> tuple[JobInfo, ...]:
        """All jobs in the order in which they came."""
        waiting = {job.id: i for i, job in enumerate(self._waiting)}
        return tuple(
            JobInfo(job.id, job.kind, job.state, waiting.get(job.id, 0), job.fraction)
            for job in self._jobs.values()
        )

    def stop(self) -> None:
        """Take no more jobs and end all that there are."""
        self._stopping = True
        self._waiting.clear()
        for job in self._jobs.values():
            job.cancelled.set()
            job.tell(Error("stopping", "the server was stopped"))

    async def close(self) -> None:
        """stop(), and wait until the thread is at rest."""
        self.stop()
        if self._running is not None:
            await self._running
        await asyncio.to_thread(self._thread.shutdown)

    # -- inside ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Run what waits, until nothing does."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            job = self._waiting.popleft()
            job.state = "running"
            self._tell_positions()

            def tell(event: Event, job: Job = job) -> None:
                loop.call_soon_threadsafe(job.tell, event)

            seconds = await loop.run_in_executor(self._thread, _compute, self._models, job, tell)
            self._average += (seconds - self._average) / 4
            job.state = "delivering"
        self._running = None

    def _tell_positions(self) -> None:
        for position, job in enumerate(self._waiting):
            job.tell(Queued(job.id, position))


def _compute(models: Models, job: Job, tell: Callable[[Event], None]) -> float:
    """Run a job in the computing thread; returns its seconds and never raises."""
    start = time.monotonic()
    try:
        if not job.cancelled.is_set():
            flow: Flow = models.flow(job.bundle, job.precision)
            with closing(job.work(flow, job.id)) as stream:
                for event in stream:
                    if job.cancelled.is_set():
                        break
                    tell(event)
        last: Event = Done(time.monotonic() - start)
    except Exception as error:
        last = _explain(error)
    tell(last)
    return time.monotonic() - start


def _explain(error: Exception) -> Error:
    for kind, word in _KINDS:
        if isinstance(error, kind):
            return Error(word, str(error) or "out of memory")
    # The type alone: a message may quote what the client sent.
    say(f"flowship serve: a job failed with {type(error).__name__}")
    return Error("internal", f"the job failed ({type(error).__name__}); this is a bug of flowship")
