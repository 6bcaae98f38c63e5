import pytest

from tools.check_prose import PHRASES, checked_files, find_phrases, main

# A text with each phrase of the list, and the same in plain English.
EXAMPLES = [
    (":param seed: of the batches", ":param seed: Seed of the batches."),
    (":param seed: seed of the batches", ":param r: r in Eq. 3."),
    (":return: their sum", ":return: ``None`` if there is no file."),
    (":raises ValueError: a number is negative", ":raises ValueError: If a number is negative."),
    ("whoever has the machines", "with enough machines"),
    ("def test_nobody_waits():", "def test_processes_do_not_wait():"),
    ("a child of his own", "a child of its own"),
    ("None where there\n    # are none", "None without costs"),
    ("stop after so many evaluations", "stop after this number of evaluations"),
    ("as many of each", "as many rows as columns, at least as many as before"),
    ("for want of steps", "because there are few steps"),
    ("training goes on", "training continues in ongoing_runs"),
    ("python examples/go_on.py and go on", "python examples/go_on.py"),
    ("drawn anew", "drawn again"),
    ("once more", "more than once"),
    ("equal ever after", "equal from then on"),
    ("dropped without a word", "dropped silently, without a warning"),
    ("refused in words", "refused with a message, in other words"),
    ("how actions come about", "how actions are computed"),
    ("what came of it", "the results"),
    ("until it gets no better", "until it stops improving"),
    ("a policy that is there already", "an existing policy, if there is one"),
    ("let go of a page, let_go(page)", "release a page"),
    ("the way back", "the backward pass"),
    ("acts by its mode", "takes deterministic actions: the mode"),
    ("acts by samples", "takes stochastic actions: samples"),
    ("Logged are the means", "Logs the means; costs are logged"),
]


def test_every_phrase_of_the_list_has_an_example():
    found = {advice for example, _ in EXAMPLES for _, _, advice in find_phrases(example)}
    assert found == set(PHRASES.values())


@pytest.mark.parametrize(("old", "plain"), EXAMPLES)
def test_old_phrases_are_found_and_plain_english_is_not(old, plain):
    assert find_phrases(old)
    assert find_phrases(plain) == []


def test_phrase_across_two_lines_is_reported_at_the_first():
    [(line, words, _)] = find_phrases("first line\nit goes\n    # on\n")
    assert (line, words) == (2, "goes # on")


def test_files_with_phrases_are_printed_and_counted(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("Plain.\nTraining goes on.\n")
    (tmp_path / "docs" / "data.json").write_text('"goes on"')
    (tmp_path / "tests" / "tools").mkdir(parents=True)
    (tmp_path / "tests" / "tools" / "test_check_prose.py").write_text("# goes on")
    assert main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/page.md:2: \"goes on\": 'continue'",
        "check_prose: 1 phrases to rewrite",
    ]


def test_plain_project_passes(tmp_path, capsys):
    (tmp_path / "README.md").write_text("Training continues.\n")
    assert [path.name for path in checked_files(tmp_path)] == ["README.md"]
    assert main(tmp_path) == 0
    assert capsys.readouterr().out == "check_prose: 0 phrases to rewrite\n"
