"""Who does the units: this process, several of this machine, or a Dask cluster; gives (record, picture) as they come.

A worker that vanishes (killed, out of memory) costs the trial that it had in hand, on a cluster the unit: this is tried
once more, then it is an error on record, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from dragnb import sd
from dragnb.errors import InputError
from dragnb.processes import end_with_parent
from dragnb.sweep.trial import Plan, Unit, failure, trials

STRIKES = 2  # workers that a trial may cost
VANISHED = "Vanished: the worker was lost {count} times; out of memory is the likely reason"


def results(
    plan: Plan, units: list[Unit], jobs: int = 1, client=None, resources: dict | None = None
) -> Iterator:
    """What comes of the units, from a cluster's client, from `jobs` processes, or from this process alone."""
    if client is not None and units:
        return cluster(plan, units, client, resources)
    if jobs > 1 and units:
        return processes(plan, units, jobs)
    return alone(plan, units)


def alone(plan: Plan, units: list[Unit]) -> Iterator:
    """One unit after the other in this process."""
    for unit in units:
        yield from trials(plan, unit)


def processes(plan: Plan, units: list[Unit], jobs: int) -> Iterator:
    """`jobs` processes that each load the model once; CUDA devices are given out in turn."""
    require_portable(plan)
    queue, strikes, tasks = deque(units), Counter(), {}
    with contextlib.ExitStack() as stack:

        def start(number: int) -> None:
            worker = _Worker(plan, number)
            stack.callback(worker.end)
            tasks[worker.pool.submit(_load)] = worker

        for number in range(min(jobs, len(units))):
            start(number)
        while tasks:
            done, _ = futures.wait(tasks, return_when=futures.FIRST_COMPLETED)
            for task in done:
                worker = tasks.pop(task)
                try:
                    result = task.result()
                except BrokenProcessPool:
                    yield from _vanished(plan, worker, queue, strikes)
                    start(worker.number)
                    continue
                if following := worker.advance(result, queue):
                    tasks[following] = worker
                if result is not None:
                    yield result


class _Worker:
    """A process, in a pool of its own so that its end breaks no other's work; and the unit that it works on.

    ready  has it loaded the model? left: names of the unit's settings that it has not done, in their order
    """

    def __init__(self, plan: Plan, number: int):
        self.plan, self.number, self.ready, self.unit, self.left = plan, number, False, None, []
        context = multiprocessing.get_context("spawn")
        self.pool = futures.ProcessPoolExecutor(1, context, _begin, (plan, number))
        self.pid = self.pool.submit(os.getpid)

    def advance(self, result, queue: deque) -> futures.Future | None:
        """Ask for what comes after a result: the unit's next one, or the first of a new unit; None without any."""
        if result is not None:
            self.left.remove(result[0]["setting"])
            return self.pool.submit(_next)
        self.ready = True
        if not queue:
            return None
        self.unit = queue.popleft()
        self.left = self.plan.ordered(self.unit.names)
        return self.pool.submit(_next, self.unit)

    def end(self) -> None:
        with contextlib.suppress(BrokenProcessPool):
            pid = self.pid.result()
            for process in multiprocessing.active_children():
                if process.pid == pid:
                    process.terminate()
        self.pool.shutdown(cancel_futures=True)


def _vanished(plan: Plan, worker: _Worker, queue: deque, strikes: Counter) -> Iterator:
    """Put back what a lost worker had left, but for a trial that has had its chances: its failure is given."""
    if not worker.ready:
        strikes[worker.number] += 1
        if strikes[worker.number] == STRIKES:
            raise InputError(
                "workers cannot start; is there memory for so many? Settings and score must be defined in modules that "
                "a new process can import, and a script that calls this must do so below `if __name__ == '__main__':`"
            )
    if worker.left:
        trial = worker.unit.sample.name, worker.left[0]
        strikes[trial] += 1
        if strikes[trial] == STRIKES:
            yield failure(plan, worker.unit.sample, worker.left.pop(0), VANISHED.format(count=STRIKES)), None
    if worker.left:
        queue.append(replace(worker.unit, names=tuple(worker.left)))


_plan: Plan | None = None  # of this process, where it is a worker
_trials: Iterator | None = None  # of the unit that it works on


def _begin(plan: Plan, number: int) -> None:
    """The beginning of a worker, which ends with its parent, however that ends."""
    import torch

    global _plan
    _plan = plan
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with_parent()
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _load() -> None:
    """Load the model, before it is needed: what fails here fails all."""
    sd.load(_plan.model)


def _next(unit: Unit | None = None):
    """The next (record, picture) of the unit in work, or the first of a new one; None at its end."""
    global _trials
    if unit is not None:
        _trials = trials(_plan, unit)
    return next(_trials, None)


def cluster(plan: Plan, units: list[Unit], client, resources: dict | None = None) -> Iterator:
    """A task a unit on the workers of a `distributed.Client`.

    resources  what a task takes of what its worker was started with, like {"GPU": 1}. Tasks that share a process take
               turns, so give each device a process of its own (`nthreads=1`)
    """
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    require_portable(plan)
    run = f"dragnb-{os.urandom(4).hex()}"
    shared = client.submit(_shared, replace(plan, work=None), key=f"{run}-plan", retries=2)
    tasks = {
        client.submit(_unit, shared, unit, key=f"{run}-{unit.sample.name}", resources=resources): unit
        for unit in units
    }
    try:
        for task in as_completed(list(tasks)):
            unit = tasks.pop(task)
            try:
                yield from task.result()
            except KilledWorker as error:
                message = VANISHED.format(count=error.allowed_failures + 1)
                yield from ((failure(plan, unit.sample, name, message), None) for name in unit.names)
            except FutureCancelledError as error:
                raise InputError(f"the cluster is gone ({error}); run again: what is done is kept") from error
            task.release()
    finally:
        client.cancel([*tasks, shared])


def _shared(plan: Plan) -> Plan:
    """The plan as the cluster holds it: one object, and so one score with its models, in each worker."""
    return plan


_turn = threading.Lock()


def _unit(plan: Plan, unit: Unit) -> list:
    with _turn:
        return list(trials(plan, unit))


def require_portable(plan: Plan) -> None:
    """InputError where the plan cannot travel to another process."""
    if isinstance(plan.model, sd.Model):
        raise InputError("model: other processes need it by name or folder; give that, or jobs=1")
    for name, thing in {**plan.settings, "score": plan.score}.items():
        try:
            pickle.dumps(thing)
        except Exception as error:
            raise InputError(
                f"{name} cannot go to another process ({error}); define it in a module"
            ) from error
