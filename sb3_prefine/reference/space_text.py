"""Rebuild spaces from the text next to their pickle, because unpickling would run the file's code."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces


def read_space(field: Any) -> spaces.Space | None:
    """
    Rebuild a space from the readable copy of its pickle.

    :param field: JSON value of ``observation_space`` or ``action_space`` in the ``data`` of an SB3 zip.
    :return: The space; None if the text is incomplete or unknown.
    """
    copy: Mapping[str, Any] = field if isinstance(field, dict) else {}
    kind = str(copy.get(":type:", "")).rpartition(".")[2].rstrip("'>")
    if kind == "Discrete":
        return spaces.Discrete(int(copy["n"]), start=int(copy.get("start", 0)))
    if kind == "MultiBinary":
        return spaces.MultiBinary(copy["n"])
    if kind == "MultiDiscrete":
        nvec = re.fullmatch(r"\[([\d\s]+)\]", str(copy["nvec"]))
        starts_at_zero = not set(re.findall(r"\d+", str(copy.get("start", 0)))) - {"0"}
        return spaces.MultiDiscrete([int(n) for n in nvec.group(1).split()]) if nvec and starts_at_zero else None
    if kind == "Dict":
        return _read_dict(str(copy.get("spaces", "")))
    if kind == "Box":
        shape = tuple(copy.get("_shape", copy.get("shape", ())))
        dtype = np.dtype(str(copy["dtype"]))
        low, high = (_read_bound(copy, side, shape, dtype) for side in ("low", "high"))
        if low is not None and high is not None:
            return spaces.Box(low, high, dtype=dtype.type)
    return None


def _read_dict(text: str) -> spaces.Dict | None:
    """Rebuild a Dict of Box and Discrete spaces from ``{'a': Box(0, 255, (3, 64, 64), uint8), 'b': Discrete(4)}``."""
    parts: dict[str, spaces.Space] = {}
    rest = text.strip().removeprefix("OrderedDict(").removesuffix(")") if text.startswith("Ordered") else text.strip()
    number, numbers = r"[-+.\w]+", r"(?:[-+.\w]+|\[[-+.\w\s\[\]]*\])"
    entry = re.compile(
        rf"\s*'([^']*)': (?:Box\((?P<low>{numbers}), (?P<high>{numbers}), \((?P<shape>[\d, ]*)\), (?P<dtype>{number})\)"
        r"|Discrete\((?P<n>\d+)\))(?:, |\})"
    )
    rest = rest.removeprefix("{")
    while rest:
        found = entry.match(rest)
        if not found:
            return None
        rest = rest[found.end() :]
        if found["n"]:
            parts[found[1]] = spaces.Discrete(int(found["n"]))
            continue
        shape = tuple(int(size) for size in found["shape"].split(",") if size.strip())
        dtype = np.dtype(found["dtype"])
        low, high = (_read_bound({side: found[side]}, side, shape, dtype) for side in ("low", "high"))
        if low is None or high is None:
            return None
        parts[found[1]] = spaces.Box(low, high, dtype=dtype.type)
    return spaces.Dict(parts) if parts else None


def _read_bound(copy: Mapping[str, Any], side: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """Rebuild a bound of a Box from the text of its array, or from its single value if NumPy abbreviated the text."""
    numbers = re.findall(r"[^\s\[\]]+", str(copy[side]))
    if "..." in numbers:
        # If the copy lacks the single value too, only the bounds of an image are known.
        image_bound = {"low": "0", "high": "255"}[side]
        is_image = dtype == np.uint8 and len(shape) == 3 and set(numbers) == {"...", image_bound}
        numbers = [image_bound if is_image else str(copy.get(f"{side}_repr"))]
    try:
        values = np.array([float(number) for number in numbers], dtype=dtype)
    except ValueError:
        return None
    if values.size not in (1, int(np.prod(shape))):
        return None
    return np.broadcast_to(values, shape) if values.size == 1 else values.reshape(shape)
