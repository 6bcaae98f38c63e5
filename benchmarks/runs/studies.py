"""The cells of a run: budgets, tasks and seeds (a tier), and what is compared (a study)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from benchmarks import paper
from benchmarks.runs.cells import Cell, ReferenceName
from benchmarks.runs.methods import REFERENCE, Budget, Method
from benchmarks.runs.selection import Dispreferred, Selection
from sb3_prefine import dsrl

TierName = Literal["smoke", "small", "paper"]
FAST_METHODS = ("BC", "SFT", "DPO", "PPL", "CPL", "CPL-KL", "PREFINE")
# Methods whose updates take many times as long, and which need many more of them.
SLOW_METHODS = ("SafeDICE", "CPQ")
# The columns of Table 1.
TABLE_METHODS = (REFERENCE, *FAST_METHODS, *SLOW_METHODS)
# PREFINE with a preference term that outweighs the supervised term but cannot diverge.
BOUNDED_PREFINE = "PREFINE:sft_coef=0.3,beta=1.0,log_ratio_bound=5.0"


@dataclass(frozen=True)
class Tier:
    """
    Budgets, tasks and seeds of a run.

    :param tasks: Tasks of Table 1.
    :param swept_tasks: Tasks of the studies that name none.
    :param taus: Thresholds τ on the episode cost.
    :param draws: Draws of the two sets. If None, each seed has its own draw.
    :param seeds: Seeds of the training.
    :param slow_method_tasks: Tasks of SafeDICE and CPQ.
    :param budget: Budget of Table 1.
    :param curves: Budget of cells with a learning curve.
    :param longer: Budget of cells with a learning curve and ten times the steps of Table 1, up to those of the papers.
    :param sweeps: Budget of the other studies, which have many cells.
    """

    tasks: tuple[str, ...]
    swept_tasks: tuple[str, ...]
    taus: tuple[float, ...]
    draws: tuple[int, ...] | None
    seeds: tuple[int, ...]
    slow_method_tasks: tuple[str, ...]
    budget: Budget
    curves: Budget
    longer: Budget
    sweeps: Budget


_SMOKE = Budget(ref_steps=300, steps=100, safedice_steps=(20, 20), cpq_steps=20, episodes=4, stochastic_episodes=2)
_SMALL = Budget(
    ref_steps=20_000,
    steps=5_000,
    # As many steps as fit into five hours on two cores.
    safedice_steps=(2_000, 18_000),
    cpq_steps=10_000,
    episodes=20,
    stochastic_episodes=10,
)
_PAPER = Budget(
    ref_steps=500_000,
    steps=500_000,
    safedice_steps=(100_000, 1_000_000),
    cpq_steps=100_000,
    episodes=100,
    stochastic_episodes=100,
)
# All but the Goal tasks, whose episodes take ten times as long as the others.
_FAST_TASKS = tuple(name for name in dsrl.PAPER_TASKS if not name.endswith("Goal1"))
_SLOW_METHOD_TASKS = ("BallRun", "BallCircle", "HalfCheetahVelocity", "Walker2dVelocity")
TIERS: dict[TierName, Tier] = {
    "smoke": Tier(
        tasks=("BallRun",),
        swept_tasks=("BallRun",),
        taus=(40.0,),
        draws=None,
        seeds=(0,),
        slow_method_tasks=("BallRun",),
        budget=_SMOKE,
        curves=replace(_SMOKE, curve_points=2, curve_episodes=2),
        longer=replace(_SMOKE, steps=200, safedice_steps=(40, 40), cpq_steps=40, curve_points=2, curve_episodes=2),
        sweeps=_SMOKE,
    ),
    "small": Tier(
        tasks=dsrl.PAPER_TASKS,
        swept_tasks=_FAST_TASKS,
        taus=(40.0,),
        draws=None,
        seeds=(0, 1, 2),
        slow_method_tasks=_SLOW_METHOD_TASKS,
        budget=_SMALL,
        curves=replace(_SMALL, curve_points=10, curve_episodes=5, stochastic_episodes=0),
        longer=replace(
            _SMALL,
            steps=50_000,
            safedice_steps=(20_000, 180_000),
            cpq_steps=100_000,
            stochastic_episodes=0,
            curve_points=10,
            curve_episodes=10,
        ),
        sweeps=replace(_SMALL, steps=3_000, stochastic_episodes=0),
    ),
    "paper": Tier(
        tasks=dsrl.PAPER_TASKS,
        swept_tasks=dsrl.PAPER_TASKS,
        taus=(30.0, 40.0, 50.0),
        draws=(0, 1, 2, 3, 4),
        seeds=(0, 1, 2, 3, 4),
        slow_method_tasks=dsrl.PAPER_TASKS,
        budget=_PAPER,
        curves=replace(_PAPER, curve_points=50, curve_episodes=20, stochastic_episodes=0),
        longer=replace(_PAPER, curve_points=50, curve_episodes=20, stochastic_episodes=0),
        sweeps=replace(_PAPER, stochastic_episodes=0),
    ),
}


@dataclass(frozen=True)
class Study:
    """
    What is compared.

    :param methods: Methods, as :meth:`Method.parse` takes them.
    :param tasks: Tasks. If None, the tier's tasks for Table 1 or for sweeps.
    :param selections: Choices of the two sets. Their threshold and draw are replaced with the tier's.
    :param taus: Thresholds. If None, the tier's.
    :param budget: Name of the tier's budget that the cells have.
    :param references: Kinds of reference policies.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...] | None = None
    selections: tuple[Selection, ...] = (Selection(),)
    taus: tuple[float, ...] | None = None
    budget: Literal["budget", "curves", "longer", "sweeps"] = "sweeps"
    references: tuple[ReferenceName, ...] = ("clone",)


# RL Zoo's PPO agent for Walker2d observes the remaining time, which the data do not have.
_INCOMPATIBLE_REFERENCES = {("Walker2dVelocity", "ppo")}

StudyName = Literal[
    "table",
    "curves",
    "weights",
    "sizes",
    "taus",
    "longer",
    "rivals",
    "preferences",
    "within",
    "stopping",
    "checkpoints",
    "counterfactuals",
]
# Safe episodes of any return against the reference's own failures: the data that a user who deploys a policy has.
REFERENCE_FAILURES = Selection(pool="all_safe", n_preferred=10, dispreferred="reference")
STUDIES: dict[StudyName, Study] = {
    # Table 1, Fig. 3, 4 and 8
    "table": Study(TABLE_METHODS, budget="budget"),
    # Fig. 6, 10, 11 and 12
    "curves": Study(("PREFINE", "DPO"), budget="curves"),
    # Fig. 9
    "weights": Study(
        tuple(
            f"PREFINE:sft_coef={sft_coef},beta={beta}"
            for sft_coef, beta in product((0.1, 1.0, 1.6, 2.0), (0.05, 0.2, 0.6, 0.95))
        ),
        # The paper's task, and one whose reference breaks the limit with deterministic actions on our data.
        tasks=("Walker2dVelocity", "BallCircle"),
        budget="curves",
    ),
    # Fig. 5
    "sizes": Study(
        ("PREFINE",),
        tasks=("AntVelocity", "Walker2dVelocity", "BallCircle"),
        selections=(
            *(Selection(n_preferred=n) for n in (5, 10, 25, 50, 100)),
            *(Selection(n_dispreferred=n) for n in (1, 5, 10, 50)),
        ),
    ),
    # Fig. 7
    "taus": Study(("PREFINE",), taus=(30.0, 40.0, 50.0)),
    # Are Table 1's steps too few? On tasks where PREFINE breaks the limit, and for CPQ with the steps of its paper.
    "longer": Study(("BC", "PREFINE", "CPQ"), tasks=("BallCircle", "PointGoal1", "CarGoal1"), budget="longer"),
    # Are rivals better with other hyperparameters? CPL's paper also has a variant with a cloning term.
    "rivals": Study(
        (
            "PREFINE:learning_rate=1e-05",
            "DPO:learning_rate=1e-05",
            "PPL:learning_rate=1e-05",
            "PPL:learning_rate=3e-05",
            "PPL:beta=1.0",
            "CPL:learning_rate=1e-05",
            "CPL:bias=1.0,bc_coef=1.0",
        ),
        tasks=("HalfCheetahVelocity", "SwimmerVelocity", "BallCircle", "CarCircle"),
        budget="budget",
    ),
    # when_preferences_help.md
    "preferences": Study(
        ("BC", "SFT", "PREFINE", "DPO", BOUNDED_PREFINE),
        tasks=("BallCircle", "HalfCheetahVelocity"),
        selections=(
            *(Selection(n_preferred=n) for n in (1, 5, 100)),
            *(
                Selection(pool="all_safe", n_preferred=n, dispreferred=dispreferred)
                for n in (2, 10, 100)
                for dispreferred in get_args(Dispreferred)
            ),
            *(Selection(flipped=share) for share in (0.1, 0.4)),
        ),
    ),
    # The same page: more tasks, with a threshold below all limits.
    "within": Study(
        (REFERENCE, "SFT", "PREFINE", BOUNDED_PREFINE),
        tasks=_FAST_TASKS,
        selections=(Selection(), Selection(pool="all_safe", n_preferred=10)),
        taus=(20.0,),
    ),
    # The same page: are fewer steps as good?
    "stopping": Study(
        ("SFT", "PREFINE", "DPO", BOUNDED_PREFINE),
        tasks=("BallCircle", "HalfCheetahVelocity"),
        selections=(Selection(n_preferred=1), Selection(pool="all_safe", n_preferred=10)),
        budget="curves",
    ),
    # The same page.
    "counterfactuals": Study(
        (
            "BC",
            "SFT",
            "DPO",
            "PREFINE",
            "PREFINE:n_counterfactuals=4",
            "PREFINE:counterfactuals=reference",
            BOUNDED_PREFINE,
            f"{BOUNDED_PREFINE},n_counterfactuals=4",
            f"{BOUNDED_PREFINE},counterfactuals=reference",
        ),
        tasks=("BallCircle", "HalfCheetahVelocity"),
        selections=(REFERENCE_FAILURES,),
        # Far below the limits, so that policies can earn more and stay safe.
        taus=(10.0,),
    ),
    # The same page: references that are far from the data, and earn far more.
    "checkpoints": Study(
        (REFERENCE, "SFT", "PREFINE", "DPO", BOUNDED_PREFINE),
        tasks=("HalfCheetahVelocity", "Walker2dVelocity"),
        selections=(Selection(), REFERENCE_FAILURES),
        references=("ppo", "sac", "a2c"),
    ),
}


def study_cells(
    study: Study,
    tier: Tier,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    taus: Sequence[float] | None = None,
    draws: Sequence[int] | None = None,
) -> list[Cell]:
    """
    List the cells of a study, seed by seed, so that half of a run has all cells of half of the seeds.

    :param study: What is compared.
    :param tier: Budgets, tasks and seeds.
    :param tasks: Tasks in place of the study's or the tier's.
    :param methods: Methods in place of the study's.
    :param seeds: Seeds in place of the tier's.
    :param taus: Thresholds in place of the study's or the tier's.
    :param draws: Draws in place of the tier's.
    :return: The cells.
    :raises ValueError: If a task or a method is unknown.
    """
    tier_tasks = tier.tasks if study.budget == "budget" else tier.swept_tasks
    names = [task.name for task in paper.find_tasks(tasks or study.tasks or tier_tasks)]
    chosen = [Method.parse(method) for method in methods or study.methods]
    seeds, draws = seeds or tier.seeds, draws or tier.draws
    repetitions = [(seed, seed) for seed in seeds] if draws is None else list(product(draws, seeds))
    return [
        Cell(task, method, replace(selection, tau=tau, draw=draw), seed, getattr(tier, study.budget), reference)
        for (draw, seed), task, reference, tau, selection, method in product(
            repetitions, names, study.references, taus or study.taus or tier.taus, study.selections, chosen
        )
        # Slow methods run on tasks that are named explicitly, too.
        if (tasks or method.name not in SLOW_METHODS or task in tier.slow_method_tasks)
        and (task, reference) not in _INCOMPATIBLE_REFERENCES
    ]
