"""Chosen weights against the paper's, by hand."""

from benchmarks.report.tuned_weights import write_tuned
from tests.benchmarks.report.by_hand import cells_of, make_runs
from tests.benchmarks.runs.test_scores import normalised

CHOSEN = {
    "method": "PREFINE:beta=0.031,sft_coef=2.5",
    "held_out_loss": 1.2344,
    "paper": {"beta": 0.2, "sft_coef": 1.0},
    "trials": [
        {"beta": 0.2, "sft_coef": 1.0, "held_out_loss": 1.5},
        {"beta": 0.0314, "sft_coef": 2.501, "held_out_loss": 1.2344},
    ],
}
USUAL = make_runs("PREFINE", 400, 10)


def test_a_row_by_hand():
    page = write_tuned([*USUAL, *make_runs(CHOSEN["method"], 500, 5)], {"BallRun": CHOSEN, "CarRun": CHOSEN})
    [cells] = cells_of(page, "BallRun")
    more = normalised(500) - normalised(400)
    assert cells[:6] == [
        "1, 0.2",
        "1.500",
        f"{normalised(400):.2f} ± 0.00 / 0.50 ± 0.00",
        "2.5, 0.031",
        "1.234",
        f"{normalised(500):.2f} ± 0.00 / 0.25 ± 0.00",
    ]
    assert cells[6].startswith(f"{more:+.2f} [")
    assert cells[7] == "-0.25 [-0.25, -0.25]"
    text = " ".join(page.split())
    assert "best of 2 trials by the loss on 20% of the preferences" in text
    assert "On 1 task with both results, the reward" in text
    assert "significantly higher on 1 and lower on 0" in text


def test_missing_runs_are_named():
    [cells] = cells_of(write_tuned(USUAL, {"BallRun": CHOSEN}), "BallRun")
    assert cells[5:] == ["not run", "", ""]
    assert "`python -m benchmarks tune BallRun`" in write_tuned([], {})
