"""Whether two configurations are the same, but for what changes nothing that is learned."""

from collections.abc import Collection
from typing import Any

from .schema import Config

# Where and how a run works. Whether the files of another path hold the same data, their sketch tells.
FREE = frozenset(f"dataset.{key}" for key in ("root", "path", "cache", "num_workers")) | frozenset(
    f"train.{key}"
    for key in ["save_dir", "name", "num_threads", "log_every", "checkpoint_every", "accelerator", "strategy", "engine"]
)


def changes(before: Config, after: Config, ignoring: Collection[str] = ()) -> list[tuple[str, Any, Any]]:
    """What differs: (dotted key, value before, value after), without what is `FREE` to differ.

    Args:
        before, after: Two configurations.
        ignoring: Further keys, or whole sections, that may differ.

    >>> from pyrovae.config import check
    >>> changes(check({"train": {"name": "a", "seed": 1}}), check({"train": {"name": "b", "seed": 2}}))
    [('train.seed', 1, 2)]
    """
    old, new = (config.model_dump(mode="json") for config in (before, after))
    return [
        (f"{section}.{key}", old[section].get(key), new[section].get(key))
        for section in old
        if section not in ignoring
        for key in {**old[section], **new[section]}
        if f"{section}.{key}" not in {*FREE, *ignoring} and old[section].get(key) != new[section].get(key)
    ]
