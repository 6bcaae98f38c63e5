"""Spaces from their text, where they cannot be unpickled without running what the pickle carries."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces


def read_space(field: Any) -> spaces.Space | None:
    """
    A space from the readable twin of its pickle.

    :param field: the JSON value of ``observation_space`` or ``action_space`` in a zip's ``data``
    :return: the space; None where the text does not tell it
    """
    twin: Mapping[str, Any] = field if isinstance(field, dict) else {}
    kind = str(twin.get(":type:", "")).rpartition(".")[2].rstrip("'>")
    if kind == "Discrete":
        return spaces.Discrete(int(twin["n"]), start=int(twin.get("start", 0)))
    if kind == "MultiBinary":
        return spaces.MultiBinary(twin["n"])
    if kind == "MultiDiscrete":
        nvec = re.fullmatch(r"\[([\d\s]+)\]", str(twin["nvec"]))
        starts_at_zero = not set(re.findall(r"\d+", str(twin.get("start", 0)))) - {"0"}
        return spaces.MultiDiscrete([int(n) for n in nvec.group(1).split()]) if nvec and starts_at_zero else None
    if kind == "Dict":
        return _read_dict(str(twin.get("spaces", "")))
    if kind == "Box":
        shape = tuple(twin.get("_shape", twin.get("shape", ())))
        dtype = np.dtype(str(twin["dtype"]))
        low, high = (_read_bound(twin, side, shape, dtype) for side in ("low", "high"))
        if low is not None and high is not None:
            return spaces.Box(low, high, dtype=dtype.type)
    return None


def _read_dict(text: str) -> spaces.Dict | None:
    """A Dict of Box and Discrete spaces from ``{'a': Box(0, 255, (3, 64, 64), uint8), 'b': Discrete(4)}``."""
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


def _read_bound(twin: Mapping[str, Any], side: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """A Box's bound from the text of its array, or from its one value where NumPy shortened the text."""
    numbers = re.findall(r"[^\s\[\]]+", str(twin[side]))
    if "..." in numbers:
        # Where that was not noted either, only an image's bounds are known all the same.
        image_bound = {"low": "0", "high": "255"}[side]
        is_image = dtype == np.uint8 and len(shape) == 3 and set(numbers) == {"...", image_bound}
        numbers = [image_bound if is_image else str(twin.get(f"{side}_repr"))]
    try:
        values = np.array([float(number) for number in numbers], dtype=dtype)
    except ValueError:
        return None
    if values.size not in (1, int(np.prod(shape))):
        return None
    return np.broadcast_to(values, shape) if values.size == 1 else values.reshape(shape)
