"""RL Zoo's kind of table, by hand."""

from benchmarks.report.zoo_page import write
from benchmarks.runs.scores import Run
from tests.benchmarks.report.by_hand import cells_of
from tests.benchmarks.runs.test_scores import record


def test_a_line_by_hand():
    runs = [
        Run(record("SFT", (400.0, 500.0), (10.0, 20.0), seed=0)),
        Run(record("SFT", (600.0, 700.0), (21.0, 29.0), seed=1)),
        Run(record("reference", (900.0, 900.0), (50.0, 50.0))),
    ]
    page = write(runs, "small")
    env_id = "SafetyBallRun-v0"
    assert cells_of(page, "reference") == [
        [env_id, *["900.0", "0.0", "50.0", "0.0", "20", "100%", "100", "1", "200", "2"]]
    ]
    # A cost of 20 keeps the limit of 20.
    [[_, *cells]] = cells_of(page, "SFT")
    assert cells == ["550.0", "111.8", "20.0", "6.7", "20", "50%", "100", "2", "400", "4"]
    assert "seeds 0, 1" in " ".join(page.split())
