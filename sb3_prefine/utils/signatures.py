"""
Options from the signature of a method, which is read from its source code.

Importing PREFINE's module imports torch, which takes seconds. The command line shows PREFINE's hyperparameters with
``--help``, so it reads their names, types, defaults and descriptions with ``ast`` instead.
"""

import ast
import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

# The arguments of PREFINE's constructor that say what to train on and where. The others are hyperparameters.
NOT_HYPERPARAMETERS = frozenset(
    {"policy", "preferences", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}
)

_ROOT = Path(__file__).parent.parent.parent
_BUILTINS = {"bool": bool, "float": float, "int": int, "str": str}
# Stands for a type that no option can have, such as a schedule, which is a function.
_UNSUPPORTED = object()
_Class = TypeVar("_Class")


def options_from(module: str, method: str, omit: Collection[str] = ()) -> Callable[[type[_Class]], type[_Class]]:
    """
    Create a class decorator, which makes a frozen dataclass with the optional arguments of a method as its fields.

    Names, types and defaults are those of the signature. An argument is described by its ``:param`` field in the
    docstring of the decorated class or, if it has none, in that of the method (for ``__init__``, of its class).

    :param module: Module of the method, such as ``"sb3_prefine.prefine"``.
    :param method: Class and name of the method, such as ``"PREFINE.__init__"``.
    :param omit: Arguments that do not become fields.
    :return: The class decorator.
    """
    owner, method_name = method.split(".")
    owner_node = next(n for n in _parse(module).body if isinstance(n, ast.ClassDef) and n.name == owner)
    node = next(n for n in owner_node.body if isinstance(n, ast.FunctionDef) and n.name == method_name)
    descriptions = _params(ast.get_docstring(owner_node if method_name == "__init__" else node) or "")
    n_required = len(node.args.args) - len(node.args.defaults)
    arguments = [*node.args.args[n_required:], *node.args.kwonlyargs]
    defaults = [*node.args.defaults, *node.args.kw_defaults]

    def decorate(cls: type[_Class]) -> type[_Class]:
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "")
        own_descriptions = _params(cls.__doc__)
        for argument, default in zip(arguments, defaults, strict=True):
            name = argument.arg
            if default is None or name in omit:
                continue
            cls.__annotations__[name] = kind = _type(argument.annotation, module)
            if kind is _UNSUPPORTED:
                raise TypeError(f"{name}: no option of the command line can have its type. Add it to omit.")
            setattr(cls, name, ast.literal_eval(default))
            if name not in own_descriptions:
                cls.__doc__ += f"\n:param {name}: {descriptions[name]}"
        return dataclass(frozen=True)(cls)

    return decorate


@cache
def _parse(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))


def _params(docstring: str) -> dict[str, str]:
    """The ``:param`` fields of a docstring in plain text: without line breaks, code marks and links."""
    fields = re.findall(r"^:param (\w+): (.*?)(?=\n:|\n\s*\n|\Z)", docstring, flags=re.DOTALL | re.MULTILINE)
    texts = {name: re.sub(r":\w+:`(?:~[\w.]*\.)?([^`]*)`", r"\1", text) for name, text in fields}
    return {name: " ".join(text.replace("``", "").split()) for name, text in texts.items()}


def _type(node: ast.expr | None, module: str) -> Any:
    """The type that an annotation stands for, without the members of a union that no option can have."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name):
            return _BUILTINS[name] if name in _BUILTINS else _alias(name, module)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[ast.literal_eval(choices)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            members = [kind for kind in (_type(left, module), _type(right, module)) if kind is not _UNSUPPORTED]
            return _UNSUPPORTED if set(members) <= {None} else Union[tuple(members)]  # noqa: UP007
    return _UNSUPPORTED


def _alias(name: str, module: str) -> Any:
    """The type that a module of this package assigns to a name, or imports under it."""
    for node in _parse(module).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                return _type(value, module)
            case ast.ImportFrom(module=str(source), names=names) if source.startswith("sb3_prefine."):
                if any(imported.name == name for imported in names):
                    return _alias(name, source)
    return _UNSUPPORTED
