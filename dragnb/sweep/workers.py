"""Who does the units: this process, several of this machine, or a Dask cluster; gives (record, picture) as they come.

A worker that vanishes (killed, out of memory) costs what it had in hand: this is tried once more, then it is an error
on record, and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import wait

from dragnb import sd
from dragnb.errors import InputError
from dragnb.sweep.trial import Plan, Unit, failure, trials

STRIKES = 2  # workers that a trial may cost
VANISHED = "Vanished: the worker was lost {how}; out of memory is the likely reason"


def alone(plan: Plan, units: list[Unit]) -> Iterator:
    """One unit after the other in this process."""
    for unit in units:
        yield from trials(plan, unit)


def processes(plan: Plan, units: list[Unit], jobs: int) -> Iterator:
    """`jobs` processes that each load the model once; CUDA devices are given out in turn."""
    require_portable(plan)
    crew = _Crew(plan, units, min(jobs, len(units)))
    try:
        yield from crew.work()
    finally:
        crew.dismiss()


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
        client.submit(
            _unit, shared, unit, key=f"{run}-{unit.sample.name}", resources=resources, pure=False
        ): unit
        for unit in units
    }
    try:
        for task in as_completed(list(tasks)):
            unit = tasks.pop(task)
            try:
                yield from task.result()
            except KilledWorker as error:
                yield from _lost(plan, unit, f"{error.allowed_failures + 1} times")
            except FutureCancelledError as error:
                raise InputError(f"the cluster is gone ({error}); run again: what is done is kept") from error
            task.release()
    finally:
        client.cancel([*tasks, shared])


def _lost(plan: Plan, unit: Unit, how: str) -> Iterator:
    for name in unit.names:
        yield failure(plan, unit.sample, name, VANISHED.format(how=how)), None


_turn = threading.Lock()


def _shared(plan: Plan) -> Plan:
    """The plan as the cluster holds it: one object, and so one score with its models, in each worker."""
    return plan


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


class _Hand:
    """A worker process, and the unit it works on."""

    def __init__(self, plan: Plan, number: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_worker, args=(plan, number, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.ready, self.unit, self.left = False, None, []

    def give(self, plan: Plan, unit: Unit) -> None:
        self.unit, self.left = unit, plan.ordered(unit.names)
        self.connection.send(unit)

    def receive(self):
        """What the worker sends; None where it has vanished."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Crew:
    """Hands, what is to be done, and what each trial has cost so far."""

    def __init__(self, plan: Plan, units: list[Unit], jobs: int):
        self.plan, self.queue, self.strikes = plan, deque(units), Counter()
        self.false_starts, self.numbers = 0, jobs
        self.hands = [_Hand(plan, k) for k in range(jobs)]

    def work(self) -> Iterator:
        while self.queue or any(hand.unit for hand in self.hands):
            self._hand_out()
            for connection in wait([hand.connection for hand in self.hands]):
                hand = next(hand for hand in self.hands if hand.connection is connection)
                message = hand.receive()
                if message is None:
                    yield from self._vanished(hand)
                elif message == "ready":
                    hand.ready, self.false_starts = True, 0
                elif message == "done":
                    hand.unit = None
                else:
                    hand.left.remove(message[0]["setting"])
                    yield message

    def dismiss(self) -> None:
        for hand in self.hands:
            hand.end()

    def _hand_out(self) -> None:
        for hand in self.hands:
            if hand.ready and hand.unit is None and self.queue:
                try:
                    hand.give(self.plan, self.queue[0])
                except OSError:  # gone while idle: `wait` tells
                    hand.unit = None
                    continue
                self.queue.popleft()

    def _vanished(self, hand: _Hand) -> Iterator:
        """Another hand takes its place; what it had left is put back, but for a trial that has had its chances."""
        code = hand.process.exitcode
        how = f"by signal {-code}" if code and code < 0 else f"with exit code {code}"
        if not hand.ready:
            self.false_starts += 1
            if self.false_starts > len(self.hands):
                raise InputError(
                    f"workers cannot start, they end {how}; is there memory for {len(self.hands)}? Settings and score "
                    "must be defined in modules that a new process can import"
                )
        elif hand.left:
            trial = hand.unit.sample.name, hand.left[0]
            self.strikes[trial] += 1
            if self.strikes[trial] == STRIKES:
                del hand.left[0]
                yield failure(self.plan, hand.unit.sample, trial[1], VANISHED.format(how=how)), None
            if hand.left:
                self.queue.append(replace(hand.unit, names=tuple(hand.left)))
        hand.end()
        self.hands[self.hands.index(hand)] = _Hand(self.plan, self.numbers)
        self.numbers += 1


def _worker(plan: Plan, number: int, connection) -> None:
    """The life of a worker process: units in, records out. It ends with its parent, however that ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    sd.load(plan.model)
    connection.send("ready")
    while True:
        unit = connection.recv()
        for found in trials(plan, unit):
            connection.send(found)
        connection.send("done")


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
