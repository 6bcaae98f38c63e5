"""Which episodes of a task's data are preferred and dispreferred: as in the paper, or harder."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from benchmarks import paper
from sb3_prefine import PreferenceBuffer, Trajectories, dsrl

Pool = Literal["better_half", "all_safe"]
Dispreferred = Literal["data", "reference"]


@dataclass(frozen=True)
class Selection:
    """
    One choice of the two sets.

    :param tau: the threshold τ on the cost of an episode
    :param draw: the seed of what is drawn
    :param n_preferred: episodes of D_p, fewer where there are fewer
    :param n_dispreferred: episodes of D_np
    :param pool: D_p is drawn from the ``"better_half"`` by return of the safe episodes (the paper), or from
        ``"all_safe"``, which earn less
    :param flipped: the share of each set that is put into the other one, as mistaken labels would
    :param dispreferred: D_np is drawn from the costliest of the ``"data"`` (the paper), or from episodes of the
        ``"reference"`` itself that break the limit
    """

    tau: float = 40.0
    draw: int = 0
    n_preferred: int = paper.N_PREFERRED
    n_dispreferred: int = paper.N_DISPREFERRED
    pool: Pool = "better_half"
    flipped: float = 0.0
    dispreferred: Dispreferred = "data"

    @property
    def name(self) -> str:
        """For files: threshold and draw, and what else is not as in the paper."""
        usual = Selection()
        others = [f.name for f in fields(self) if f.name not in ("tau", "draw")]
        changed = [f"{name}={value}" for name in others if (value := getattr(self, name)) != getattr(usual, name)]
        return "-".join((f"tau{self.tau:g}", f"draw{self.draw}", *changed))


def condition_of(selection: Selection) -> Selection:
    """It without the threshold, which is a tier's, and the draw, which each seed has its own of."""
    return replace(selection, tau=Selection.tau, draw=Selection.draw)


def describe(selection: Selection) -> str:
    """In words, without threshold and draw."""
    source = "the better half of the safe" if selection.pool == "better_half" else "all safe"
    parts = [f"{selection.n_preferred} of {source}"]
    if selection.flipped:
        parts.append(f"{selection.flipped:.0%} flipped")
    if selection.dispreferred == "reference":
        parts.append("D_np of the reference's own")
    return ", ".join(parts)


def choose(
    task: dsrl.Task, trajectories: Trajectories, selection: Selection, own: Trajectories | None = None
) -> PreferenceBuffer:
    """
    :param task: one of the twelve
    :param trajectories: its data
    :param selection: how
    :param own: episodes of the reference, where D_np is drawn from them
    :raises ValueError: no episode is safe, or none is unsafe
    """
    preferences = paper.choose(
        task, trajectories, selection.draw, selection.tau, selection.n_preferred, selection.n_dispreferred
    )
    generator = np.random.default_rng((selection.draw, 1))
    preferred, dispreferred = preferences.preferred, preferences.dispreferred
    if selection.pool == "all_safe":
        safe = np.flatnonzero(trajectories.episode_costs < selection.tau)
        preferred = trajectories[_draw(safe, selection.n_preferred, generator)]
    if selection.dispreferred == "reference":
        assert own is not None
        unsafe = np.flatnonzero(own.episode_costs >= selection.tau)
        if not len(unsafe):
            raise ValueError(
                f"{task.name}: none of the reference's {len(own)} own episodes costs {selection.tau:g} or more, so "
                "there is nothing of its own to dislike."
            )
        dispreferred = own[_draw(unsafe, selection.n_dispreferred, generator)]
    if selection.flipped:
        preferred, dispreferred = _flip(preferred, dispreferred, selection.flipped, generator)
    return PreferenceBuffer(preferred=preferred, dispreferred=dispreferred)


def _draw(candidates: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.permutation(candidates)[:n])


def _flip(
    preferred: Trajectories, dispreferred: Trajectories, share: float, generator: np.random.Generator
) -> tuple[Trajectories, Trajectories]:
    """Put a share of each set into the other."""
    mistaken, missed = (
        np.isin(np.arange(len(s)), generator.permutation(len(s))[: round(share * len(s))])
        for s in (preferred, dispreferred)
    )
    return (
        _join((preferred, ~mistaken), (dispreferred, missed)),
        _join((dispreferred, ~missed), (preferred, mistaken)),
    )


def _join(*parts: tuple[Trajectories, np.ndarray]) -> Trajectories:
    """Some episodes of some sets."""
    return Trajectories.concatenate([trajectories[mask] for trajectories, mask in parts if mask.any()])
