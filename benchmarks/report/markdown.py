"""What the pages are written with: tables in Markdown, and what many records have in common."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, the first column text and the others numbers."""
    lines = [headers, ["---", *["--:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def distinct(values: Iterable[Any]) -> str:
    """Each value once: mostly there is one."""
    return ", ".join(map(str, sorted(set(values))))


def versions(of: Iterable[dict[str, Any]]) -> str:
    """The versions that records were made with."""
    found: dict[str, list[str]] = {}
    for record in of:
        for package, version in record["versions"].items():
            found.setdefault(package, []).append(version)
    return ", ".join(f"{package} {distinct(found[package])}" for package in found)
