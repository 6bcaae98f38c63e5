"""The environments of a rollout, spread over processes."""

import contextlib
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
import torch

from sb3_prefine.board import Board, Shared
from sb3_prefine.env_source import EnvMaker, WrapEnv, make_envs
from sb3_prefine.inputs import map_arrays
from sb3_prefine.randomness import OwnRandomState
from sb3_prefine.runner import Episode, Observation, Runners, Start

# Seconds that the processes have at the end to close their environments, before they are killed.
_PATIENCE = 5.0
# What goes through the pipes at most steps: "take a step", and "it is taken and no episode ended". Else it is a pickle.
_STEP = _TAKEN = b""


class Workers:
    """
    What :class:`~sb3_prefine.runner.Runners` is, in several processes: one step of all environments at a time.

    Row i of a batch is of process i modulo their number, and process 0 is this one. Observations, actions and action
    masks are in shared memory. Through the pipes go the word to take a step, the seeds of new episodes, whole episodes
    that ended, and errors. A process that loses its pipe ends, so that none is left when this one is killed.

    :param own: The environments of this process.
    :param children: The other processes.
    :param board: Of all environments.
    """

    def __init__(self, own: Runners, children: "list[_Child]", board: Board):
        self._own = own
        self._children = children
        self._board = board
        self._n_workers = 1 + len(children)

    def __len__(self) -> int:
        return len(self._board.actions)

    @property
    def action_space(self) -> gym.Space:
        """The action space of each environment."""
        return self._own.action_space

    def start(self, starts: Mapping[int, Start]) -> None:
        """As :meth:`sb3_prefine.runner.Runners.start`."""
        shares: list[dict[int, Start]] = [{} for _ in range(self._n_workers)]
        for row, start in starts.items():
            shares[row % self._n_workers][row // self._n_workers] = start
        told = [child for child in self._children if shares[child.number]]
        for child in told:
            child.tell(pickle.dumps(shares[child.number]))
        self._own.start(shares[0])
        for child in told:
            child.answer()
        self._board.show(self._own, slice(0, None, self._n_workers))

    def step(self, actions: np.ndarray, upcoming: Iterator[Start]) -> tuple[list[tuple[int, Episode]], list[int]]:
        """As :meth:`sb3_prefine.runner.Runners.step`."""
        self._board.actions[...] = actions
        for child in self._children:
            child.tell(_STEP)
        ended, _ = self._own.step(actions[:: self._n_workers], iter(()))
        finished = [(row * self._n_workers, episode) for row, episode in ended]
        for child in self._children:
            finished += [(row * self._n_workers + child.number, episode) for row, episode in child.answer()]
        finished.sort(key=lambda pair: pair[0])
        # In this order: once all that ended have a successor, zip must not ask for one more.
        starts = {row: start for (row, _), start in zip(finished, upcoming, strict=False)}
        self.start(starts)
        return finished, list(starts)

    def observations(self) -> Observation:
        """As :meth:`sb3_prefine.runner.Runners.observations`."""
        return map_arrays(np.copy, self._board.observations)

    def action_masks(self) -> np.ndarray:
        """As :meth:`sb3_prefine.runner.Runners.action_masks`."""
        return np.copy(self._board.action_masks)


def start_workers(
    envs: Iterator[gym.Env],
    source: EnvMaker,
    wrap_env: WrapEnv | None,
    n_envs: int,
    n_workers: int,
    *,
    masked: bool,
    max_steps: int,
    seed: int,
    upcoming: Iterator[Start],
    stack: contextlib.ExitStack,
) -> Workers:
    """
    Start processes, and an episode in each environment.

    :param envs: Makes the environments of this process.
    :param source: What the other processes make theirs of.
    :param wrap_env: Wraps each environment there; None leaves them as they are.
    :param n_envs: How many there are in all processes.
    :param n_workers: How many processes there are, with this one.
    :param masked: As in ``Runners``.
    :param max_steps: As in ``Runners``.
    :param seed: Of the global random states in the other processes.
    :param upcoming: The episodes to begin.
    :param stack: Ends the processes.
    :raises TypeError: If ``source`` or ``wrap_env`` cannot be pickled.
    :raises ValueError: If the observations are not of numbers.
    """
    starts = dict(zip(range(n_envs), upcoming, strict=False))
    first = next(envs)
    own = Runners([first], masked, max_steps)
    # Its observation shows how much memory a batch takes.
    own.start({0: starts.pop(0)})
    shared = Shared.like(own, n_envs)
    pickled = _pickle_source(_registered(first) if isinstance(source, str) else source, wrap_env)
    context = _context()
    children: list[_Child] = []
    stack.callback(_end, children)
    for number in range(1, n_workers):
        children.append(_Child.start(context, _Job(pickled, number, n_workers, masked, max_steps, seed, shared)))
    # While the processes start.
    for env in envs:
        own.add(env)
    workers = Workers(own, children, shared.open())
    workers.start(starts)
    return workers


@dataclass(frozen=True)
class _Job:
    """
    What a process has to know.

    :param source: Pickled: what to make environments of, and what to wrap them in.
    :param number: Of the process, from 1.
    :param n_workers: How many processes there are.
    :param masked: As in ``Runners``.
    :param max_steps: As in ``Runners``.
    :param seed: Of the rollout.
    :param shared: The board.
    """

    source: bytes
    number: int
    n_workers: int
    masked: bool
    max_steps: int
    seed: int
    shared: Shared


@dataclass(frozen=True)
class _Child:
    """
    A process, seen from its parent.

    :param number: From 1.
    :param process: The process.
    :param commands: Where it reads.
    :param replies: Where it writes.
    """

    number: int
    process: BaseProcess
    commands: Connection
    replies: Connection

    @classmethod
    def start(cls, context: Any, job: _Job) -> Self:
        # Two pipes of one direction: on Linux they are faster than one of both.
        commands, to_child = context.Pipe(duplex=False)
        replies, from_child = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, commands, from_child), daemon=True)
        process.start()
        # Kept open here they would hide the end of the process.
        commands.close()
        from_child.close()
        return cls(job.number, process, to_child, replies)

    def tell(self, command: bytes) -> None:
        # Of a process that is gone, its last reply says why.
        with contextlib.suppress(BrokenPipeError):
            self.commands.send_bytes(command)

    def answer(self) -> list[tuple[int, Episode]]:
        """Wait until the command is carried out; the episodes that ended, by the process's own rows."""
        try:
            reply = self.replies.recv_bytes()
        except (EOFError, ConnectionError) as error:
            self.process.join(_PATIENCE)
            raise RuntimeError(
                f"n_workers: process {self.number} ended in the middle of its work (exit code "
                f"{self.process.exitcode}; a negative one is the signal that killed it, as for lack of memory). If "
                'there is a traceback above that speaks of "bootstrapping", put what the script does under '
                'if __name__ == "__main__":. Else try fewer workers.'
            ) from error
        if reply == _TAKEN:
            return []
        content: Exception | list[tuple[int, Episode]] = pickle.loads(reply)
        if isinstance(content, Exception):
            raise content
        return content


def _end(children: list[_Child]) -> None:
    for child in children:
        child.commands.close()
        child.replies.close()
    deadline = time.monotonic() + _PATIENCE
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.exitcode is None:
            child.process.kill()
            child.process.join()
        child.process.close()


def _context() -> Any:
    """How to start processes, as SB3's ``SubprocVecEnv``: forked ones would inherit the locks of torch's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Its server imports torch once, and the processes that it forks have it. Without effect if it runs already.
    context.set_forkserver_preload([__name__])
    return context


def _registered(env: gym.Env) -> EnvMaker:
    """What an environment was made of: its id may have been registered in this process alone."""
    spec = env.unwrapped.spec
    assert spec is not None  # gym.make sets it
    return gym.spec(spec.id)


def _pickle_source(source: EnvMaker, wrap_env: WrapEnv | None) -> bytes:
    for name, value in (("env: it", source), ("policy: its wrap_env", wrap_env)):
        try:
            cloudpickle.dumps(value)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise TypeError(
                f"{name} cannot be sent to other processes: {error}. Pass an id, or a function that makes what it "
                "needs itself, or leave n_workers at 1."
            ) from error
    return cloudpickle.dumps((source, wrap_env))


def _work(job: _Job, commands: Connection, replies: Connection) -> None:
    """What a child does, until its pipe is closed."""
    # Ctrl-C reaches every process of the terminal; the parent closes the pipe then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # A broken pipe: the rollout was closed, or the parent killed, before the reply was read.
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as stack:
        try:
            _carry_out(job, commands, replies, stack)
        except Exception as error:  # whatever it is, the parent raises it
            error.add_note(f"In process {job.number} of {job.n_workers}:\n{traceback.format_exc()}")
            replies.send_bytes(_pickle_error(error))


def _carry_out(job: _Job, commands: Connection, replies: Connection, stack: contextlib.ExitStack) -> None:
    # Environments that draw from global random states shall not draw the same in every process.
    own_seed = np.random.SeedSequence(job.seed, spawn_key=(0, job.number)).generate_state(1)[0]
    stack.enter_context(OwnRandomState(int(own_seed)))
    source, wrap_env = pickle.loads(job.source)
    board = job.shared.open()
    rows = slice(job.number, None, job.n_workers)
    envs = list(make_envs(source, len(board.actions[rows]), stack, wrap_env))
    runners = Runners(envs, job.masked, job.max_steps)
    while True:
        try:
            command = commands.recv_bytes()
        except EOFError:
            return
        finished: list[tuple[int, Episode]] = []
        if command == _STEP:
            # A copy: the environment may keep its action, and the episode does.
            finished, _ = runners.step(board.actions[rows].copy(), iter(()))
        else:
            runners.start(pickle.loads(command))
        board.show(runners, rows)
        replies.send_bytes(pickle.dumps(finished) if finished else _TAKEN)


def _pickle_error(error: Exception) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # one with arguments of its own is often not made for it
        return pickle.dumps(RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__])))
    return pickled
