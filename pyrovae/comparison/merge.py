"""Partial configurations laid over one another."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ..config import COMPONENTS

_BLOCKS = ({*COMPONENTS} - {"model"}) | {
    "layers",
    "beta_warmup",
    "base",
}  # keys whose value names a component and its arguments


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, section by section; neither is altered.

    A component block of another `type` replaces what was there, because the arguments of one class mean nothing to
    another, and a bare name does so always. One of the same type, or that names none, changes single arguments. Lists
    and plain values are replaced.

    >>> merge({"guide": {"type": "svi", "family": "flow"}}, {"guide": "svi"})
    {'guide': 'svi'}
    """
    merged = deepcopy(dict(values))
    for key, new in changes.items():
        old = merged.get(key)
        tag = "name" if key == "dataset" else "type"
        if key in _BLOCKS and isinstance(new, Mapping):
            old = {tag: old} if isinstance(old, str) else old
            if isinstance(old, Mapping) and tag in old and tag in new and old[tag] != new[tag]:
                old = None
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            merged[key] = merge(old, new)
        else:
            merged[key] = deepcopy(new)
    return merged
