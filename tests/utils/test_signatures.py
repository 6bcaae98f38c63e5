import inspect
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import pytest

from sb3_prefine import PREFINE, PreferenceBuffer
from sb3_prefine.data.selection import Unsafe
from sb3_prefine.objective import LossType
from sb3_prefine.prefine import Counterfactuals
from sb3_prefine.utils import signatures
from sb3_prefine.utils.signatures import NOT_HYPERPARAMETERS, options_from

OMITTED = {*NOT_HYPERPARAMETERS, "optimizer_kwargs"}


@options_from("sb3_prefine.prefine", "PREFINE.__init__", omit=OMITTED)
class PrefineOptions:
    """
    Options of PREFINE.

    :param beta: An own description.
    """


@options_from("sb3_prefine.data.preferences", "PreferenceBuffer.from_costs")
class FromCostsOptions:
    """Options of from_costs, which is a class method with arguments after a star."""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes modules of a package whose source is read instead of this one's."""
    monkeypatch.setattr(signatures, "_ROOT", tmp_path)
    signatures._parse.cache_clear()
    yield lambda path, text: _write(tmp_path / path, text)
    signatures._parse.cache_clear()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_fields_have_the_names_and_defaults_of_the_constructor():
    parameters = inspect.signature(PREFINE).parameters.values()
    expected = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in OMITTED}
    assert {field.name: field.default for field in fields(PrefineOptions)} == expected
    assert vars(PrefineOptions()) == expected


def test_fields_have_the_names_and_defaults_of_a_class_method():
    parameters = inspect.signature(PreferenceBuffer.from_costs).parameters.values()
    expected = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert vars(FromCostsOptions()) == expected


def test_fields_have_the_types_of_the_signature():
    found = get_type_hints(PrefineOptions)
    assert found["batch_size"] is int
    assert found["fixed_std"] == float | None
    assert set(get_args(found["loss_type"])) == set(get_args(LossType))  # imported from another module
    assert set(get_args(found["counterfactuals"])) == set(get_args(Counterfactuals))
    assert set(get_args(get_type_hints(FromCostsOptions)["unsafe"])) == set(get_args(Unsafe))


def test_a_union_loses_the_members_that_no_option_can_have():
    assert get_type_hints(PrefineOptions)["learning_rate"] is float  # without the schedule


def test_descriptions_come_from_the_class_and_else_from_the_method():
    assert ":param beta: An own description." in PrefineOptions.__doc__
    assert PrefineOptions.__doc__.count(":param beta:") == 1
    for field in fields(PrefineOptions):
        assert f":param {field.name}: " in PrefineOptions.__doc__


def test_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        PrefineOptions().beta = 1.0


def test_descriptions_are_plain_text(source):
    source(
        "sb3_prefine/module.py",
        '''
class Model:
    """
    A model.

    :param beta: Temperature β of the :class:`~sb3_prefine.objective.Objective`, such as
        ``0.1``. See :func:`prefine_loss`.

    A paragraph about the rest.

    :param gamma: Discount.
    :raises ValueError: If it is wrong.
    """

    def __init__(self, policy, beta: float = 0.1, *, gamma: float = 0.9): ...
''',
    )

    @options_from("sb3_prefine.module", "Model.__init__")
    class Options:
        """Options."""

    assert Options.__doc__.splitlines() == [
        "Options.",
        ":param beta: Temperature β of the Objective, such as 0.1. See prefine_loss.",
        ":param gamma: Discount.",
    ]


def test_a_type_may_be_defined_in_another_module_or_package(source):
    source("sb3_prefine/types/__init__.py", "from sb3_prefine.types.names import Name")
    source("sb3_prefine/types/names.py", "from typing import Literal\nName = Literal['a']\n")
    source(
        "sb3_prefine/module.py",
        "from sb3_prefine.types import Name\n"
        "class Model:\n"
        "    ''':param name: Its name.'''\n"
        "    def __init__(self, name: Name | None = None): ...\n",
    )

    @options_from("sb3_prefine.module", "Model.__init__")
    class Options:
        """Options."""

    assert get_type_hints(Options) == {"name": Literal["a"] | None}


@pytest.mark.parametrize("annotation", ["dict[str, int]", "Schedule", "dict | None"])
def test_an_argument_that_no_option_can_give_is_refused(source, annotation):
    text = f"class Model:\n    ''':param x: It.'''\n    def __init__(self, x: {annotation} = None): ...\n"
    source("sb3_prefine/module.py", text)
    with pytest.raises(TypeError, match=r"^x: "):

        @options_from("sb3_prefine.module", "Model.__init__")
        class Options:
            """Options."""

    @options_from("sb3_prefine.module", "Model.__init__", omit={"x"})
    class Fewer:
        """Options."""

    assert fields(Fewer) == ()
