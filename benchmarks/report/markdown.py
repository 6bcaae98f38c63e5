"""Writing pages: templates with placeholders, tables, and what many records have in common."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
# Of all intervals: scores.py takes the percentiles 2.5 and 97.5, and rliable does so too.
CONFIDENCE = "95%"
_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")


def render(template: str, **values: object) -> str:
    """
    Fill in a template.

    :param template: Name of a file in ``templates/``, without its ending.
    :param values: The text of each ``{{ placeholder }}``.
    :return: The text, without white space at its ends.
    :raises ValueError: If the template has a placeholder without a value, or a value has no placeholder.
    """
    text = (TEMPLATES / f"{template}.md").read_text(encoding="utf-8").strip()
    if different := sorted(set(_PLACEHOLDER.findall(text)) ^ values.keys()):
        raise ValueError(f"template {template}: found {', '.join(different)} only in the text or only in the values.")
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown: the first column is text, the others are numbers."""
    lines = [headers, ["---", *["--:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def distinct(values: Iterable[Any]) -> str:
    """Write each of some values once, sorted. Mostly they are all equal."""
    return ", ".join(map(str, sorted(set(values))))


def list_names(names: Sequence[str], otherwise: str = "none") -> str:
    """
    Write names as text: ``BallRun, CarRun and DroneRun``.

    :param names: The names.
    :param otherwise: The text if the list is empty.
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else otherwise


def count(n: int, noun: str) -> str:
    """Write a number with its noun: ``1 run``, ``2 runs``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def versions(of: Iterable[dict[str, Any]]) -> str:
    """Write the versions that records were made with."""
    found: dict[str, list[str]] = {}
    for record in of:
        for package, version in record["versions"].items():
            found.setdefault(package, []).append(version)
    return ", ".join(f"{package} {distinct(found[package])}" for package in found)


def not_run(command: str) -> str:
    """Write what to run for a missing section."""
    return f"Not run yet: `python -m benchmarks {command}`."
