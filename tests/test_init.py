"""The public names of the package, which are imported when they are first used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_prefine

STUB = Path(sb3_prefine.__file__).with_suffix(".pyi")
PUBLIC_NAMES = {
    "Evaluation",
    "PREFINE",
    "PreferenceBuffer",
    "Reference",
    "Trajectories",
    "collect",
    "evaluate_policy",
    "load_reference",
}
MODULES = {
    "baselines",
    "callbacks",
    "data",
    "dsrl",
    "envs",
    "evaluation",
    "objective",
    "policies",
    "population",
    "prefine",
    "reference",
    "rollout",
}


def in_fresh_process(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_public_names_are_listed_and_importable():
    assert set(sb3_prefine.__all__) == PUBLIC_NAMES | MODULES
    assert set(dir(sb3_prefine)) >= PUBLIC_NAMES | MODULES
    for name in PUBLIC_NAMES:
        assert getattr(sb3_prefine, name).__name__ == name


def test_importing_the_package_does_not_import_torch():
    script = "import sys, sb3_prefine; print(sb3_prefine.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    assert in_fresh_process(script) == f"{sb3_prefine.__version__} False False\n"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_are_attributes_after_a_bare_import(module):
    script = f"import sb3_prefine; print(sb3_prefine.{module}.__name__)"
    assert in_fresh_process(script) == f"sb3_prefine.{module}\n"


def test_star_import_provides_the_public_names():
    script = "from sb3_prefine import *; print(sorted(name for name in globals() if not name.startswith('__')))"
    assert in_fresh_process(script) == f"{sorted(PUBLIC_NAMES | MODULES)}\n"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="PREFIN"):
        _ = sb3_prefine.PREFIN
    with pytest.raises(ImportError, match="PREFIN"):
        exec("from sb3_prefine import PREFIN", {})


def test_stub_for_type_checkers_has_the_public_names():
    imports = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    # "import X as X" is what makes a name public for type checkers.
    assert {
        alias.asname for node in imports for alias in node.names if alias.asname == alias.name
    } == PUBLIC_NAMES | MODULES
