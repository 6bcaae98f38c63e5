"""
Errors have three parts: the argument, what was found, and what to do.

``beta: -1 is negative. Pass 0 or more.`` or ``beta: expected a finite number >= 0, found -1.``

All errors are tested for this form here: the messages in the source of the package, and those of a sample of calls.
Tests of single errors therefore match the argument and the found value only.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

import sb3_prefine
from sb3_prefine import PREFINE, PreferenceBuffer, Trajectories, collect, dsrl, evaluate_policy, load_reference
from sb3_prefine.baselines import BC, CPQ, PPL, SafeDICE
from sb3_prefine.envs.speed_limit import SpeedLimit
from sb3_prefine.policies import make_policy
from tests.worlds import GOOD, RandomEnv, make_model, preferences, trajectories

PACKAGE = Path(sb3_prefine.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# Other forms.
PATH_IN_FRONT = {"data/hdf5.py"}  # Trajectories.from_hdf5 puts the path of the file in front of these messages.
COMMAND_LINE = {"cli", "zoo"}  # Their messages name options, keys and commands, which are not parameters.

# Modules with messages that do not have the form yet.
NOT_YET = {
    "reference/normalizer.py",
    "reference/sb3_zip.py",
    "reference/zoo_folder.py",
}


def problems(message: str) -> list[str]:
    """
    List what a message lacks.

    :param message: A message. In a message from the source, ``{}`` stands for a value, and ``{error}`` for another
        error, which has the three parts itself.
    """
    found: list[str] = []
    if message.startswith("{error}"):
        return found
    # One name or several, or an option of the command line with its value.
    begin = re.match(r"([\w./{}\[\]-]+(, [\w./{}\[\]-]+)*|--?\w+ \S+): (?=\S)", message)
    if begin is None:
        found.append("it does not begin with the name of the argument and a colon")
    rest = message[begin.end() :] if begin else message
    if rest.endswith("{error}"):
        return found
    # A sentence, or a value after a sentence (the hint that a function chooses).
    if not re.search(r"([.?]\)?|[.?)] \{\})$", rest):
        found.append("it does not end with a full sentence")
    is_expectation = re.match(r"(.+: )?expected \S.*, found \S", rest)
    has_second_sentence = re.search(r"(\S[.?]|\{error\}\)) [A-Z{(]", rest)
    if not is_expectation and not has_second_sentence:
        found.append("it does not say what to do, or what is expected")
    return found


def raised_messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and message of each ValueError and TypeError, with ``{}`` for values and ``{error}`` for errors."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
            and node.exc.func.id in ("ValueError", "TypeError")
            and node.exc.args
        ):
            yield node.lineno, as_text(node.exc.args[0])


def as_text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(as_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return as_text(node.left) + as_text(node.right)
    is_error = isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id == "error"
    return "{error}" if is_error else "{}"


def parameter_names() -> set[str]:
    """Find the names of all parameters and fields in the package."""
    names = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
            if isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


NAMES = parameter_names()


def is_parameter(message: str) -> bool:
    """Return True if a message begins with names of parameters, or with a value that is not known here."""
    names = message.partition(": ")[0].split(", ")
    return message.startswith("{") or all(name.partition("[")[0] in NAMES for name in names)


@pytest.mark.parametrize("module", [module for module in MODULES if module not in NOT_YET])
def test_errors_name_the_argument_and_say_what_to_do(module):
    wrong = []
    for line, message in raised_messages((PACKAGE / module).read_text()):
        if module in PATH_IN_FRONT:
            message = "{path}: " + message
        found = problems(message)
        if not found and module.partition("/")[0] not in COMMAND_LINE and not is_parameter(message):
            found.append("it begins with a word that is not the name of a parameter")
        wrong += [f"{module}:{line}: {message!r}: {problem}" for problem in found]
    assert not wrong, "\n".join(wrong)


def test_the_source_has_messages_to_check():
    assert sum(len(list(raised_messages((PACKAGE / module).read_text()))) for module in MODULES) > 100


# The checker itself


@pytest.mark.parametrize(
    "message",
    [
        "beta: -1 is negative. Pass 0 or more.",
        "beta: expected a finite number >= 0, found -1.",
        "beta, sft_coef: both are 0. Raise one of them.",
        "preferred: actions: 3 of 6 rows are outside of the space (worst: row 3). Clip them.",
        "sets[1]: expected Trajectories, found dict.",
        "{}: {}. Give an array of numbers.",
        "{}: {} of {} rows are {} (first: {}). {}",
        "{}: expected {}, found {}.",
        "{}: {error}",
        "{error} (The file stays where it is.)",
        "/data/t.hdf5: cut off or damaged. Download it again.",
        "--algo ppo: this command trains PREFINE. Pass --algo prefine.",
        "env: {} is not registered ({error}) Import its package first.",
    ],
)
def test_the_checker_accepts_the_three_parts(message):
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "lacks"),
    [
        ("invalid value", ["begin", "end", "do"]),
        ("Invalid value.", ["begin", "do"]),
        ("", ["begin", "end", "do"]),
        ("{}", ["begin", "end", "do"]),
        ("the value of beta: -1. Pass 0 or more.", ["begin"]),
        ("The columns have different lengths. Give each the same number of rows.", ["begin"]),
        ("beta=-1: it is negative. Pass 0 or more.", ["begin"]),
        ("beta:-1 is negative. Pass 0 or more.", ["begin"]),
        ("beta: -1 is negative.", ["do"]),
        ("beta: {} is not positive.", ["do"]),
        ("beta: {}", ["end", "do"]),
        ("beta: -1 is negative. Pass 0 or more", ["end"]),
        ("beta: expected a number", ["end", "do"]),
        ("beta: expected 0.5 or 1.5 of them.", ["do"]),
        ("{} is not a zip: {error}", ["begin"]),
    ],
)
def test_the_checker_finds_missing_parts(message, lacks):
    found = problems(message)
    assert len(found) == len(lacks)
    assert all(word in problem for word, problem in zip(lacks, found, strict=True))


def test_the_checker_knows_parameters():
    assert is_parameter("beta, sft_coef: both are 0. Raise one of them.")
    assert is_parameter("{}: 3. Give 4.")
    assert not is_parameter("Error: 3. Give 4.")
    assert not is_parameter("betta: 3. Give 4.")


def test_the_checker_reads_all_forms_of_messages_from_source():
    source = """
def check(value):
    if value:
        raise ValueError("plain")
    try:
        raise TypeError(
            f"{value!r} of "
            "two parts" + f" and {value:g}"
        )
    except TypeError as error:
        raise ValueError(f"value: {error}") from error
    raise ValueError(value)
    raise KeyError("other")
    raise
"""
    assert sorted(raised_messages(source)) == [
        (4, "plain"),
        (6, "{} of two parts and {}"),
        (11, "value: {error}"),
        (12, "{}"),
    ]


# Real calls


def columns(**replaced: Any) -> dict[str, Any]:
    t = trajectories(GOOD, n_episodes=2, length=3)
    names = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    return {**{name: getattr(t, name) for name in names}, **replaced}


def page_in_place_of_a_file(folder: Path) -> Path:
    (folder / "t.hdf5").write_text("<html>")
    return folder / "t.hdf5"


CALLS: list[tuple[str, Callable[[Path], object]]] = [
    ("beta", lambda _: PREFINE(make_model(PPO), beta=-1.0)),
    ("beta, sft_coef", lambda _: PREFINE(make_model(PPO), beta=0.0, sft_coef=0.0)),
    ("loss_type", lambda _: PREFINE(make_model(PPO), loss_type="nca")),  # type: ignore[arg-type]
    ("batch_size", lambda _: PREFINE(make_model(PPO), batch_size=0)),
    ("policy", lambda _: PREFINE(3)),  # type: ignore[arg-type]
    ("policy", lambda folder: load_reference(folder / "nowhere.zip")),
    ("policy", lambda _: make_policy("VAEPolicy", RandomEnv.observation_space, RandomEnv.action_space)),
    ("preferred", lambda _: PREFINE(make_model(PPO, "Pendulum-v1"), preferences(), device="cpu")),
    ("rewards", lambda _: Trajectories(**columns(rewards=np.full(6, np.nan)))),
    ("columns", lambda _: Trajectories(**columns(rewards=np.zeros(5)))),
    ("timeouts", lambda _: Trajectories(**columns(timeouts=np.zeros(6)))),
    ("index", lambda _: preferences().preferred[99]),
    ("sets", lambda _: Trajectories.concatenate([])),
    ("{folder}/t.hdf5", lambda folder: Trajectories.from_hdf5(page_in_place_of_a_file(folder))),
    ("dispreferred", lambda _: PreferenceBuffer(trajectories(GOOD), [])),  # type: ignore[arg-type]
    ("n_preferred", lambda _: PreferenceBuffer.from_costs(trajectories(GOOD), 1, n_preferred=0)),
    ("cost_limit", lambda _: PreferenceBuffer.from_costs(trajectories(GOOD), 0)),
    ("fraction", lambda _: preferences().split(1.5)),
    ("task", lambda _: dsrl.load("BalRun")),
    ("kappa", lambda _: dsrl.normalized_cost([1.0], -1)),
    ("epsilon", lambda _: dsrl.drop_best(trajectories(GOOD), 0, 1)),
    ("env", lambda _: collect(make_model(PPO), "Pendulum-v1", 1, progress_bar=False)),
    ("env", lambda _: evaluate_policy(make_model(PPO), "Pendulum-v1")),
    ("label_smoothing", lambda _: PREFINE(make_model(PPO), label_smoothing=0.5)),
    ("reduction", lambda _: PPL(make_model(PPO), preferences(), reduction="max")),  # type: ignore[arg-type]
    ("batch_size", lambda _: BC("GaussianPolicy", trajectories(GOOD), env=RandomEnv(), batch_size=0)),
    ("gamma", lambda _: CPQ("GaussianPolicy", trajectories(GOOD), env=RandomEnv(), cost_limit=1, gamma=1.0)),
    ("gamma", lambda _: SafeDICE("GaussianPolicy", preferences(), env=RandomEnv(), gamma=0.0)),
    ("limit", lambda _: SpeedLimit(RandomEnv(), np.nan)),
]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CALLS)])
def test_errors_of_real_calls_have_three_parts(tmp_path, name, call):
    with pytest.raises((ValueError, TypeError, IndexError, FileNotFoundError)) as caught:
        call(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name.format(folder=tmp_path)}: ")
    assert problems(message) == []
