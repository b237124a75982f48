"""Partial configurations laid over one another."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ..config import COMPONENTS

_BLOCKS = {*COMPONENTS, "layers", "beta_warmup"}  # keys whose value names a component and its arguments


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, section by section; neither is altered.

    A component block of another `type` replaces what was there, because the arguments of one class mean nothing to
    another. One of the same type, or that names none, changes single arguments. Lists and plain values are replaced.
    """
    merged = deepcopy(dict(values))
    for key, new in changes.items():
        old = merged.get(key)
        tag = "name" if key == "dataset" else "type"
        if key in _BLOCKS:
            old, new_block = _as_block(old, tag), _as_block(new, tag)
            if isinstance(old, Mapping) and isinstance(new_block, Mapping):
                same = tag not in old or tag not in new_block or old[tag] == new_block[tag]
                merged[key] = merge(old, new_block) if same else deepcopy(dict(new_block))
                continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            merged[key] = merge(old, new)
        else:
            merged[key] = deepcopy(new)
    return merged


def _as_block(value: Any, tag: str) -> Any:
    return {tag: value} if isinstance(value, str) else value
