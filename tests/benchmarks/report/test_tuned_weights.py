"""Chosen weights against the paper's, by hand."""

from benchmarks.report.tuned_weights import tuned
from benchmarks.runs.scores import Run
from tests.benchmarks.runs.test_scores import normalised, record

CHOSEN = {
    "method": "PREFINE:beta=0.031,sft_coef=2.5",
    "held_out_loss": 1.2344,
    "paper": {"beta": 0.2, "sft_coef": 1.0},
    "trials": [
        {"beta": 0.2, "sft_coef": 1.0, "held_out_loss": 1.5},
        {"beta": 0.0314, "sft_coef": 2.501, "held_out_loss": 1.2344},
    ],
}


def row(runs: list[Run]) -> list[str]:
    [line] = [line for line in tuned(runs, {"BallRun": CHOSEN}).splitlines() if line.startswith("| BallRun |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_by_hand():
    runs = [
        Run(record(method, (reward, reward), (cost, cost), seed))
        for seed in range(3)
        for method, reward, cost in (("PREFINE", 400.0, 10.0), (CHOSEN["method"], 500.0, 5.0))
    ]
    more = normalised(500) - normalised(400)
    assert row(runs) == [
        "BallRun",
        "1, 0.2",
        "1.500",
        f"{normalised(400):.2f} ± 0.00 / 0.50 ± 0.00",
        "2.5, 0.031",
        "1.234",
        f"{normalised(500):.2f} ± 0.00 / 0.25 ± 0.00",
        f"{more:+.2f} [{more:+.2f}, {more:+.2f}]",
        "-0.25 [-0.25, -0.25]",
    ]
    chosen = {"BallRun": CHOSEN, "CarRun": CHOSEN}
    assert "With the chosen weights the reward is higher on 1 of 1 tasks, and lower on 0." in tuned(runs, chosen)


def test_what_is_not_trained_is_said():
    assert row([Run(record())])[6:] == ["not run", "", ""]
    assert "Not run yet: `python -m benchmarks tune BallRun`." in tuned([], {})
    assert "The best of 2 trials" in tuned([], {"BallRun": CHOSEN})
