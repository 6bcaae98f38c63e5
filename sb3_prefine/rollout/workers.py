"""The other processes of a rollout: each runs groups, as long as there are any."""

import contextlib
import multiprocessing
import pickle
import signal
import time
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import Any, Self

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym

from sb3_prefine.rollout.env_group import ActionSettings, Group, GroupRunner
from sb3_prefine.rollout.episode import Episode
from sb3_prefine.rollout.make_envs import EnvSource, open_envs
from sb3_prefine.utils.randomness import OwnRandomState
from sb3_prefine.utils.threads import one_thread

# Seconds that the processes have at the end to close their environments, before they are killed.
_PATIENCE = 5.0
# Seconds between two looks at a pipe: each takes as long as a step of an environment.
_LOOK_EVERY = 0.01
# What a process says when it has imported everything. All else is a pickle.
_READY = b""


class Workers:
    """
    Processes that take groups from a list as soon as they are ready for one, while this process takes others.

    Through the pipes go the policy and what to make environments of, once; the groups; whole episodes that ended, and
    errors. A process that loses its pipe ends, so that none is left when this one is killed.

    :param todo: The groups, in their order. This process too takes its own from here.
    """

    def __init__(self, todo: deque[Group]):
        self._todo = todo
        self._children: list[_Child] = []
        # In a thread: the first process starts only when a server has imported torch.
        self._starting = ThreadPoolExecutor(1)
        self._started: Future[None] = Future()
        self._closed = False
        self._next_look = 0.0

    @property
    def busy(self) -> bool:
        """Whether one of them has a group."""
        return any(child.unfinished for child in self._children)

    def start(self, n_workers: int, job: bytes) -> None:
        """
        Start the processes, and go on at once.

        :param n_workers: How many there are, this one included.
        :param job: What :func:`pickle_job` made, for each of them.
        """
        self._started = self._starting.submit(self._start_children, n_workers, job)

    def receive(self, wait: bool = False) -> list[Episode]:
        """
        The episodes that have come in. Processes that are ready for a group are given one.

        :param wait: Whether to wait for something to come in.
        :raises RuntimeError: If a process was killed. Any error that was raised there is raised here.
        """
        now = time.monotonic()
        if not wait and now < self._next_look:
            return []
        self._next_look = now + _LOOK_EVERY
        if self._started.done():
            self._started.result()
        children: dict[Any, _Child] = {child.replies: child for child in self._children}
        episodes = []
        for pipe in wait_for(children, None if wait else 0):
            episodes += children[pipe].hear()
            if not children[pipe].unfinished and self._todo:
                children[pipe].give(self._todo.popleft())
        return episodes

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        self._starting.shutdown()
        for child in self._children:
            child.let_go()
        deadline = time.monotonic() + _PATIENCE
        for child in self._children:
            child.end(deadline)

    def _start_children(self, n_workers: int, job: bytes) -> None:
        context = _context()
        for number in range(1, n_workers):
            if not self._closed:
                self._children.append(_Child.start(context, number, n_workers, job))


def pickle_job(source: EnvSource, first: gym.Env, acting: ActionSettings) -> bytes:
    """
    What another process has to know.

    :param source: What to make environments of.
    :param first: One of them.
    :param acting: How actions come about.
    :raises TypeError: If a part of it cannot be pickled.
    """
    if isinstance(source, str):
        # The id may have been registered in this process alone.
        spec = first.unwrapped.spec
        assert spec is not None  # gym.make sets it
        source = gym.spec(spec.id)
    return pickle.dumps(
        (
            _pickle("env", source),
            _pickle("policy", acting.policy),
            _pickle("action_transform", acting.action_transform),
            acting.deterministic,
            acting.max_steps,
        )
    )


def _pickle(name: str, value: object) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise TypeError(
            f"{name}: it cannot be sent to other processes: {error}. Pass one that makes what it needs itself, or "
            "leave n_workers at 1."
        ) from error
    return pickled


@dataclass(eq=False)
class _Child:
    """
    A process, seen from its parent.

    :param number: From 1.
    :param process: The process.
    :param commands: Where it reads.
    :param replies: Where it writes.
    :param job: What it has to know, until it was told.
    :param ready: Whether it has imported everything.
    :param unfinished: How many episodes it has still to send.
    """

    number: int
    process: BaseProcess
    commands: Connection
    replies: Connection
    job: bytes | None
    ready: bool = False
    unfinished: int = 0

    @classmethod
    def start(cls, context: Any, number: int, n_workers: int, job: bytes) -> Self:
        # Two pipes of one direction: on Linux they are faster than one of both.
        commands, to_child = context.Pipe(duplex=False)
        replies, from_child = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(number, n_workers, commands, from_child), daemon=True)
        process.start()
        # Kept open here they would hide the end of the process.
        commands.close()
        from_child.close()
        return cls(number, process, to_child, replies, job)

    def hear(self) -> list[Episode]:
        """What it has said: that it is ready, or the episodes that ended."""
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
        self.ready = True
        if reply == _READY:
            return []
        content: Exception | list[Episode] = pickle.loads(reply)
        if isinstance(content, Exception):
            raise content
        self.unfinished -= len(content)
        return content

    def give(self, group: Group) -> None:
        # Of a process that is gone, its last reply says why.
        with contextlib.suppress(BrokenPipeError):
            if self.job is not None:
                self.commands.send_bytes(self.job)
            self.commands.send(group)
        self.job = None
        self.unfinished = len(group.starts)

    def let_go(self) -> None:
        if not self.ready:
            # It has no environments yet, and would import on.
            self.process.kill()
        self.commands.close()
        self.replies.close()

    def end(self, deadline: float) -> None:
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


def _context() -> Any:
    """How to start processes, as SB3's ``SubprocVecEnv``: forked ones would inherit the locks of torch's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Its server imports torch once, and the processes that it forks have it. Without effect if it runs already.
    context.set_forkserver_preload([__name__])
    return context


def _work(number: int, n_workers: int, commands: Connection, replies: Connection) -> None:
    """What a child does, until its pipe is closed."""
    # Ctrl-C reaches every process of the terminal; the parent closes the pipe then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A broken pipe: the rollout was closed, or the parent killed, before the reply was read.
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as stack:
        try:
            replies.send_bytes(_READY)
            _run_groups(commands, replies, stack)
        except Exception as error:  # whatever it is, the parent raises it
            error.add_note(f"In process {number} of {n_workers}:\n{traceback.format_exc()}")
            replies.send_bytes(_pickle_error(error))


def _run_groups(commands: Connection, replies: Connection, stack: contextlib.ExitStack) -> None:
    if (job := _read(commands)) is None:
        return
    source, policy, action_transform = map(pickle.loads, job[:3])
    acting = ActionSettings(policy, job[3], action_transform, job[4])
    wrap_env = getattr(policy, "wrap_env", None)
    while (group := _read(commands)) is not None:
        with OwnRandomState(group.seed), one_thread():
            runner = GroupRunner(list(open_envs(source, group.n_envs, stack, wrap_env)), group, acting)
            next_look = 0.0
            for ended in runner.steps():
                if ended:
                    replies.send_bytes(pickle.dumps(ended))
                if (now := time.monotonic()) >= next_look:
                    next_look = now + _LOOK_EVERY
                    # Nothing is sent while a group runs: it is the pipe's end.
                    if commands.poll():
                        return


def _read(commands: Connection) -> Any:
    """What comes next; None once the pipe is closed."""
    try:
        return commands.recv()
    except EOFError:
        return None


def _pickle_error(error: Exception) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # one with arguments of its own is often not made for it
        return pickle.dumps(RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__])))
    return pickled
