import pytest

from benchmarks.report.names import label_of, style_of
from benchmarks.runs.studies import BOUNDED_PREFINE, TABLE_METHODS
from sb3_prefine.evaluation.palette import PREFINE, STYLES


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("reference", "π_ref"),
        ("PPL:beta=1.0", "PPL, β = 1"),
        ("CPL:bias=1.0,bc_coef=1.0", "CPL, λ = 1, cloning = 1"),
        ("PREFINE:counterfactuals=reference", "PREFINE, counterfactuals = reference"),
        (BOUNDED_PREFINE, "bounded"),
        (f"{BOUNDED_PREFINE},n_counterfactuals=4", "bounded, n_counterfactuals = 4"),
    ],
)
def test_methods_have_short_labels(method, label):
    assert label_of(method) == label


def test_every_method_has_a_style_of_its_own():
    styles = [style_of(method) for method in (*TABLE_METHODS, BOUNDED_PREFINE)]
    assert len(set(styles)) == len(styles)
    assert style_of("PREFINE:beta=1.0") == PREFINE
    assert style_of(f"{BOUNDED_PREFINE},n_counterfactuals=4") == STYLES["bounded"]
