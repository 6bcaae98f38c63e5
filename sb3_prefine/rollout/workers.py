"""Worker processes. Each takes environment groups from a queue until it is empty."""

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
from sb3_prefine.utils.randomness import IsolatedRandomState
from sb3_prefine.utils.threads import one_thread

# Seconds for the processes to close their environments at the end, before they are killed.
_CLOSE_TIMEOUT = 5.0
# Seconds between two polls of a pipe. A poll takes as long as a step of an environment.
_POLL_INTERVAL = 0.01
# The message of a process that has imported everything. Every other message is a pickle.
_READY = b""


class Workers:
    """
    Processes that take groups from a queue as soon as they are ready for one, while this process takes others.

    The pipes carry the policy and the source of the environments (once), the groups, finished episodes, and errors. A
    process whose pipe closes ends, so that no process is left when this one is killed.

    :param todo: The queue of groups, from which this process takes its own groups too.
    """

    def __init__(self, todo: deque[Group]):
        self._todo = todo
        self._children: list[_Child] = []
        # In a thread, because the first process can start only when the fork server has imported torch.
        self._starting = ThreadPoolExecutor(1)
        self._started: Future[None] = Future()
        self._closed = False
        self._next_poll = 0.0

    @property
    def busy(self) -> bool:
        """Whether a process is running a group."""
        return any(child.unfinished for child in self._children)

    def start(self, n_workers: int, job: bytes) -> None:
        """
        Start the processes, without waiting for them.

        :param n_workers: Number of processes, this one included.
        :param job: The result of :func:`pickle_job`, which each process receives.
        """
        self._started = self._starting.submit(self._start_children, n_workers, job)

    def receive(self, wait: bool = False) -> list[Episode]:
        """
        Receive finished episodes, and assign groups to processes that are ready for one.

        :param wait: Whether to wait for a message.
        :return: The episodes that the processes have finished since the last call.
        :raises RuntimeError: If a process was killed. An error raised in a process is raised here.
        """
        now = time.monotonic()
        if not wait and now < self._next_poll:
            return []
        self._next_poll = now + _POLL_INTERVAL
        if self._started.done():
            self._started.result()
        children: dict[Any, _Child] = {child.replies: child for child in self._children}
        episodes = []
        for pipe in wait_for(children, None if wait else 0):
            episodes += children[pipe].receive()
            if not children[pipe].unfinished and self._todo:
                children[pipe].assign(self._todo.popleft())
        return episodes

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        self._starting.shutdown()
        for child in self._children:
            child.disconnect()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for child in self._children:
            child.join(deadline)

    def _start_children(self, n_workers: int, job: bytes) -> None:
        context = _context()
        for number in range(1, n_workers):
            if not self._closed:
                self._children.append(_Child.start(context, number, n_workers, job))


def pickle_job(source: EnvSource, first: gym.Env, settings: ActionSettings) -> bytes:
    """
    Pickle what a worker process needs: the source of the environments, the policy and the settings.

    :param source: The source of the environments.
    :param first: The first environment made from it.
    :param settings: How the policy's output becomes an action.
    :return: The pickle.
    :raises TypeError: If a part cannot be pickled.
    """
    if isinstance(source, str):
        # The id may be registered in this process only.
        spec = first.unwrapped.spec
        assert spec is not None  # gym.make has set it
        source = gym.spec(spec.id)
    return pickle.dumps(
        (
            _pickle("env", source),
            _pickle("policy", settings.policy),
            _pickle("action_transform", settings.action_transform),
            settings.deterministic,
            settings.max_steps,
        )
    )


def _pickle(name: str, value: object) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise TypeError(
            f"{name}: it cannot be sent to other processes ({error}). Pass one that creates what it needs itself, or "
            "leave n_workers at 1."
        ) from error
    return pickled


@dataclass(eq=False)
class _Child:
    """
    The parent's view of a worker process.

    :param number: Number of the process, from 1.
    :param process: The process.
    :param commands: The parent's end of the pipe from which the process reads.
    :param replies: The parent's end of the pipe to which the process writes.
    :param job: The result of :func:`pickle_job`, or None once it has been sent.
    :param ready: Whether the process has imported everything.
    :param unfinished: Number of episodes of its group that it has not sent yet.
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
        # Two one-way pipes: on Linux they are faster than one two-way pipe.
        commands, to_child = context.Pipe(duplex=False)
        replies, from_child = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(number, n_workers, commands, from_child), daemon=True)
        process.start()
        # If they stayed open here, the end of the process would go unnoticed.
        commands.close()
        from_child.close()
        return cls(number, process, to_child, replies, job)

    def receive(self) -> list[Episode]:
        """
        Read one message: that the process is ready, or the episodes that have ended.

        :return: The episodes, or an empty list.
        :raises RuntimeError: If the process ended. An error raised in the process is raised here.
        """
        try:
            reply = self.replies.recv_bytes()
        except (EOFError, ConnectionError) as error:
            self.process.join(_CLOSE_TIMEOUT)
            raise RuntimeError(
                f"n_workers: process {self.number} ended during its work (exit code {self.process.exitcode}; a "
                "negative one is the signal that killed it, for example when memory ran out). If a traceback above "
                'mentions "bootstrapping", put the code of the script under if __name__ == "__main__":. Otherwise use '
                "fewer workers."
            ) from error
        self.ready = True
        if reply == _READY:
            return []
        content: Exception | list[Episode] = pickle.loads(reply)
        if isinstance(content, Exception):
            raise content
        self.unfinished -= len(content)
        return content

    def assign(self, group: Group) -> None:
        # If the process has ended, its last reply tells why.
        with contextlib.suppress(BrokenPipeError):
            if self.job is not None:
                self.commands.send_bytes(self.job)
            self.commands.send(group)
        self.job = None
        self.unfinished = len(group.starts)

    def disconnect(self) -> None:
        if not self.ready:
            # It is still importing and has no environments to close.
            self.process.kill()
        self.commands.close()
        self.replies.close()

    def join(self, deadline: float) -> None:
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


def _context() -> Any:
    """The start method, as in SB3's ``SubprocVecEnv``: forked processes would inherit the locks of torch's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports torch once, for all processes that it forks. No effect if the server is running already.
    context.set_forkserver_preload([__name__])
    return context


def _work(number: int, n_workers: int, commands: Connection, replies: Connection) -> None:
    """The main function of a worker process. It returns when the pipe closes."""
    # Ctrl-C reaches every process of the terminal. The parent then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A broken pipe: the rollout was closed, or the parent was killed, before it read the reply.
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as stack:
        try:
            replies.send_bytes(_READY)
            _run_groups(commands, replies, stack)
        except Exception as error:  # the parent raises it, whatever it is
            error.add_note(f"In process {number} of {n_workers}:\n{traceback.format_exc()}")
            replies.send_bytes(_pickle_error(error))


def _run_groups(commands: Connection, replies: Connection, stack: contextlib.ExitStack) -> None:
    if (job := _read(commands)) is None:
        return
    source, policy, action_transform = map(pickle.loads, job[:3])
    settings = ActionSettings(policy, job[3], action_transform, job[4])
    wrap_env = getattr(policy, "wrap_env", None)
    while (group := _read(commands)) is not None:
        with IsolatedRandomState(group.seed), one_thread():
            runner = GroupRunner(list(open_envs(source, group.n_envs, stack, wrap_env)), group, settings)
            next_poll = 0.0
            for ended in runner.steps():
                if ended:
                    replies.send_bytes(pickle.dumps(ended))
                if (now := time.monotonic()) >= next_poll:
                    next_poll = now + _POLL_INTERVAL
                    # No command is sent during a group, so a readable pipe means EOF.
                    if commands.poll():
                        return


def _read(commands: Connection) -> Any:
    """The next command, or None if the pipe has been closed."""
    try:
        return commands.recv()
    except EOFError:
        return None


def _pickle_error(error: Exception) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # exceptions with their own arguments often cannot be pickled
        return pickle.dumps(RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__])))
    return pickled
