"""``python -m benchmarks``: every verb is listed and can be called."""

import subprocess
import sys

import pytest

from benchmarks.__main__ import main, usage

VERBS = [line.split()[0] for line in usage().splitlines() if line.startswith("  ")]


def test_help_lists_every_verb_with_a_sentence(capsys):
    assert main(["--help"]) == main([]) == 0
    assert capsys.readouterr().out == 2 * f"{usage()}\n"
    assert len(VERBS) == 14
    assert all(line.endswith(".") for line in usage().splitlines() if line.startswith("  "))


def test_help_does_not_import_modules_of_verbs():
    program = (
        "import sys; from benchmarks.__main__ import main; main(['--help']); "
        "print(sorted({'torch', 'ray', 'umap', 'matplotlib', 'sb3_prefine'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_shows_its_own_help(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert f"python -m benchmarks {verb}" in capsys.readouterr().out


def test_unknown_verb_lists_the_known_ones(capsys):
    assert main(["rnu"]) == 2
    error = capsys.readouterr().err
    assert "'rnu'" in error
    assert all(verb in error for verb in VERBS)


@pytest.mark.parametrize(("n_failed", "code"), [(0, 0), (3, 1)])
def test_exit_code_is_1_if_cells_crashed(n_failed, code, monkeypatch):
    monkeypatch.setattr("benchmarks.runs.run.main", lambda: n_failed)
    assert main(["run"]) == code
