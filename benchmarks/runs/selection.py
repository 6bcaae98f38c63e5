"""The choice of preferred and dispreferred episodes: the paper's, or a harder one."""

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
    One choice of the preferred set D_p and the dispreferred set D_np.

    :param tau: Threshold τ on the episode cost.
    :param draw: Seed of the random choices.
    :param n_preferred: Number of episodes in D_p; fewer if fewer are safe.
    :param n_dispreferred: Number of episodes in D_np.
    :param pool: D_p is drawn from the ``"better_half"`` of the safe episodes by return (as in the paper), or from
        ``"all_safe"`` episodes, which earn less.
    :param flipped: Share of each set that is moved to the other set, to imitate wrong labels.
    :param dispreferred: D_np is drawn from the costliest episodes of the ``"data"`` (as in the paper), or from episodes
        of the ``"reference"`` that break the limit.
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
        """Part of file names: threshold, draw, and everything that differs from the paper."""
        default = Selection()
        others = [f.name for f in fields(self) if f.name not in ("tau", "draw")]
        changed = [f"{name}={value}" for name in others if (value := getattr(self, name)) != getattr(default, name)]
        return "-".join((f"tau{self.tau:g}", f"draw{self.draw}", *changed))


def condition_of(selection: Selection) -> Selection:
    """Copy a selection without its threshold and draw, which differ between tiers and seeds."""
    return replace(selection, tau=Selection.tau, draw=Selection.draw)


def describe(selection: Selection) -> str:
    """Describe a selection as text, without threshold and draw."""
    source = "the better half of the safe" if selection.pool == "better_half" else "all safe"
    parts = [f"{selection.n_preferred} of {source}"]
    if selection.flipped:
        parts.append(f"{selection.flipped:.0%} flipped")
    if selection.dispreferred == "reference":
        parts.append("D_np of the reference's own")
    return ", ".join(parts)


def choose_sets(
    task: dsrl.Task,
    trajectories: Trajectories,
    selection: Selection,
    reference_episodes: Trajectories | None = None,
) -> PreferenceBuffer:
    """
    Choose the two sets.

    :param task: One of the twelve tasks.
    :param trajectories: The task's data.
    :param selection: How to choose.
    :param reference_episodes: Episodes of the reference, if D_np is drawn from them.
    :return: The two sets.
    :raises ValueError: If no episode is safe, or no episode is unsafe.
    """
    preferences = paper.choose_sets(
        task, trajectories, selection.draw, selection.tau, selection.n_preferred, selection.n_dispreferred
    )
    generator = np.random.default_rng((selection.draw, 1))
    preferred, dispreferred = preferences.preferred, preferences.dispreferred
    if selection.pool == "all_safe":
        safe = np.flatnonzero(trajectories.episode_costs < selection.tau)
        preferred = trajectories[_draw(safe, selection.n_preferred, generator)]
    if selection.dispreferred == "reference":
        assert reference_episodes is not None
        unsafe = np.flatnonzero(reference_episodes.episode_costs >= selection.tau)
        if not len(unsafe):
            raise ValueError(
                f"{task.name}: none of the reference's {len(reference_episodes)} episodes costs {selection.tau:g} or "
                "more, so D_np would be empty. Draw it from the data."
            )
        dispreferred = reference_episodes[_draw(unsafe, selection.n_dispreferred, generator)]
    if selection.flipped:
        preferred, dispreferred = _flip(preferred, dispreferred, selection.flipped, generator)
    return PreferenceBuffer(preferred=preferred, dispreferred=dispreferred)


def _draw(candidates: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.permutation(candidates)[:n])


def _flip(
    preferred: Trajectories, dispreferred: Trajectories, share: float, generator: np.random.Generator
) -> tuple[Trajectories, Trajectories]:
    """Move a share of each set to the other set."""
    moved_from_p, moved_from_np = (
        np.isin(np.arange(len(s)), generator.permutation(len(s))[: round(share * len(s))])
        for s in (preferred, dispreferred)
    )
    return (
        _concatenate((preferred, ~moved_from_p), (dispreferred, moved_from_np)),
        _concatenate((dispreferred, ~moved_from_np), (preferred, moved_from_p)),
    )


def _concatenate(*parts: tuple[Trajectories, np.ndarray]) -> Trajectories:
    """Concatenate the masked episodes of several sets."""
    return Trajectories.concatenate([trajectories[mask] for trajectories, mask in parts if mask.any()])
