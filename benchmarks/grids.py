"""Which cells a run is made of: how much of everything (a tier), and what is compared (a study)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import paper
from cells import Cell
from methods import REFERENCE, Budget, Method
from selection import Selection

from sb3_prefine import dsrl

TierName = Literal["smoke", "small", "paper"]
EVERYBODY = ("BC", "SFT", "DPO", "PPL", "CPL", "CPL-KL", "PREFINE")
# Their updates take many times as long, and they need many more.
COSTLY = ("SafeDICE", "CPQ")
# A preference term that outweighs the supervised one, and cannot run away.
BOUNDED = "PREFINE:sft_coef=0.3,beta=1.0,log_ratio_bound=5.0"


@dataclass(frozen=True)
class Tier:
    """
    How much of everything.

    :param tasks: of Table 1
    :param taus: thresholds on the data
    :param draws: of the two sets; None gives each seed a draw of its own
    :param seeds: of the training
    :param costly_tasks: those of SafeDICE and CPQ
    :param budget: of a cell
    :param curves: the budget of a cell with a curve
    """

    tasks: tuple[str, ...]
    taus: tuple[float, ...]
    draws: tuple[int, ...] | None
    seeds: tuple[int, ...]
    costly_tasks: tuple[str, ...]
    budget: Budget
    curves: Budget


def _tier(
    tasks: tuple[str, ...],
    taus: tuple[float, ...],
    draws: tuple[int, ...] | None,
    seeds: tuple[int, ...],
    costly_tasks: tuple[str, ...],
    budget: Budget,
    curve_points: int,
    curve_episodes: int,
) -> Tier:
    curves = replace(budget, curve_points=curve_points, curve_episodes=curve_episodes)
    return Tier(tasks, taus, draws, seeds, costly_tasks, budget, curves)


_COSTLY_TASKS = ("BallRun", "BallCircle", "HalfCheetahVelocity", "Walker2dVelocity")
TIERS: dict[TierName, Tier] = {
    "smoke": _tier(
        tasks=("BallRun",),
        taus=(40.0,),
        draws=None,
        seeds=(0,),
        costly_tasks=("BallRun",),
        budget=Budget(
            ref_steps=300, steps=100, safedice_steps=(20, 20), cpq_steps=20, episodes=4, stochastic_episodes=2
        ),
        curve_points=2,
        curve_episodes=2,
    ),
    "small": _tier(
        tasks=dsrl.PAPER_TASKS,
        taus=(40.0,),
        draws=None,
        seeds=(0, 1, 2),
        costly_tasks=_COSTLY_TASKS,
        budget=Budget(
            ref_steps=20_000,
            steps=5_000,
            safedice_steps=(2_000, 10_000),
            cpq_steps=5_000,
            episodes=20,
            stochastic_episodes=10,
        ),
        curve_points=10,
        curve_episodes=5,
    ),
    "paper": _tier(
        tasks=dsrl.PAPER_TASKS,
        taus=(30.0, 40.0, 50.0),
        draws=(0, 1, 2, 3, 4),
        seeds=(0, 1, 2, 3, 4),
        costly_tasks=dsrl.PAPER_TASKS,
        budget=Budget(
            ref_steps=500_000,
            steps=500_000,
            safedice_steps=(100_000, 1_000_000),
            cpq_steps=100_000,
            episodes=100,
            stochastic_episodes=100,
        ),
        curve_points=50,
        curve_episodes=20,
    ),
}


@dataclass(frozen=True)
class Study:
    """
    What is compared.

    :param methods: as :meth:`Method.parse` takes them
    :param tasks: None for all of the tier's
    :param selections: what is not as in the paper in the choice of the sets; the threshold and the draw are the tier's
    :param taus: None for those of the tier
    :param curves: whether to evaluate in training
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    selections: tuple[Selection, ...] = (Selection(),)
    taus: tuple[float, ...] | None = None
    curves: bool = False


StudyName = Literal["table", "curves", "weights", "sizes", "taus", "preferences"]
STUDIES: dict[StudyName, Study] = {
    # Table 1, Fig. 3, 4 and 8
    "table": Study((REFERENCE, *EVERYBODY, *COSTLY)),
    # Fig. 6, 10, 11 and 12
    "curves": Study(("PREFINE", "DPO"), curves=True),
    # Fig. 9
    "weights": Study(
        tuple(
            f"PREFINE:sft_coef={sft_coef},beta={beta}"
            for sft_coef, beta in product((0.1, 1.0, 1.6, 2.0), (0.05, 0.2, 0.6, 0.95))
        ),
        tasks=("Walker2dVelocity",),
        curves=True,
    ),
    # Fig. 5
    "sizes": Study(
        ("PREFINE",),
        tasks=("AntVelocity", "Walker2dVelocity"),
        selections=(
            *(Selection(n_preferred=n) for n in (5, 10, 25, 50, 100)),
            *(Selection(n_dispreferred=n) for n in (1, 5, 10, 50)),
        ),
    ),
    # Fig. 7
    "taus": Study(("PREFINE",), taus=(30.0, 40.0, 50.0)),
    # when_preferences_help.md
    "preferences": Study(
        ("BC", "SFT", "PREFINE", "DPO", BOUNDED),
        tasks=("BallCircle", "HalfCheetahVelocity"),
        selections=(
            *(Selection(n_preferred=n) for n in (1, 2, 5, 10, 25, 100)),
            *(Selection(pool="all_safe", n_preferred=n) for n in (2, 5, 10, 25, 100)),
            *(Selection(flipped=share) for share in (0.1, 0.2, 0.4)),
            Selection(pool="all_safe", dispreferred="reference"),
        ),
    ),
}


def cells(
    study: Study,
    tier: Tier,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    taus: Sequence[float] | None = None,
    draws: Sequence[int] | None = None,
) -> list[Cell]:
    """
    The cells of a study, seed by seed: half of a run is all of it with half of the seeds.

    :param tasks: in place of the study's or tier's, and so are the others
    :raises ValueError: there is no such task or method
    """
    names = [task.name for task in paper.find_tasks(tasks or study.tasks or tier.tasks)]
    chosen = [Method.parse(method) for method in methods or study.methods]
    seeds, draws = seeds or tier.seeds, draws or tier.draws
    repetitions = [(seed, seed) for seed in seeds] if draws is None else list(product(draws, seeds))
    return [
        Cell(task, method, replace(selection, tau=tau, draw=draw), seed, tier.curves if study.curves else tier.budget)
        for (draw, seed), task, tau, selection, method in product(
            repetitions, names, taus or study.taus or tier.taus, study.selections, chosen
        )
        # Named, they run where they are named.
        if tasks or method.name not in COSTLY or task in tier.costly_tasks
    ]
