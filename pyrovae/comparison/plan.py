"""What a comparison will run: cells, each a scheme and a seed, and where each leaves its run."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from ..config import COMPONENTS, Config, ConfigError, apply_override, check, find_config
from ..config.load import read_yaml
from .settings import ComparisonSettings

# Keys whose value names a component and its arguments.
_BLOCKS = ({*COMPONENTS} - {"model"}) | {"layers", "beta_warmup", "base"}


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        scheme: Name of what is compared; the same for all seeds.
        seed: Of weights, batches and noise.
        config: Resolved and checked.
        run_dir: The folder that training writes, or has written.
    """

    scheme: str
    seed: int
    config: Config
    run_dir: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.scheme}, seed {self.seed}"

    @property
    def file_name(self) -> str:
        """Of its configuration and its log, without suffix."""
        return f"{slug(self.scheme)}-seed_{self.seed}"


def plan(settings: ComparisonSettings, schemes: Mapping[str, Mapping[str, Any]], out: Path) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted comparison has compared all `schemes` on the first ones.

    Raises:
        ConfigError: One line for each problem of any cell.
    """
    cells, problems = [], dict[str, list[str]]()
    for seed in settings.seeds:
        for name, values in schemes.items():
            try:
                cells.append(cell_of(name, seed, values, out / "cells"))
            except ConfigError as error:
                for line in str(error).splitlines():
                    problems.setdefault(line, []).append(name)
    if problems:
        guilty = {line: list(dict.fromkeys(names)) for line, names in problems.items()}
        of_some = {line: f" (cells {'; '.join(names)})" * (len(names) < len(schemes)) for line, names in guilty.items()}
        raise ConfigError("\n".join(line + blame for line, blame in of_some.items()))
    return cells


def cell_of(scheme: str, seed: int, values: Mapping[str, Any], folder: Path) -> Cell:
    """The cell of a configuration's sections, whose run is below `folder`; errors are those of `check`."""
    name = f"{slug(scheme)}-seed_{seed}"
    where = {"seed": seed, "save_dir": str(folder), "name": name}
    config = check({**values, "train": {**(values.get("train") or {}), **where}})
    return Cell(scheme, seed, config, folder / name / "version_0")


def schemes_of(settings: ComparisonSettings, overrides: Iterable[str], file: Path) -> dict[str, dict[str, Any]]:
    """The sections of each scheme's configuration, by name: base, common, the cell's own, families, `overrides`.

    Raises:
        ConfigError: Names that cannot be used, or an override that cannot be followed.
    """
    base = settings.base if isinstance(settings.base, dict) else read_yaml(find_config(file).parent / settings.base)
    base = merge({section: values for section, values in base.items() if values is not None}, settings.common)
    schemes: dict[str, dict[str, Any]] = {}
    for name, changes in settings.cells.items():
        values = merge(base, changes or {})
        guide = (changes or {}).get("guide")
        if not settings.families or (isinstance(guide, Mapping) and "family" in guide):
            schemes[name] = values
            continue
        for family in settings.families:
            schemes[f"{name}, {_family_name(family)}"] = merge(values, {"guide": {"family": family}})
    _check_names(settings, schemes, overrides)
    for values in schemes.values():
        for override in overrides:
            apply_override(values, override)
    return schemes


def _family_name(family: str | Mapping[str, Any]) -> str:
    """`flow`, or `flow (transform iaf)`."""
    if isinstance(family, str):
        return family
    arguments = ", ".join(f"{key} {value}" for key, value in family.items() if key != "type")
    return f"{family['type']} ({arguments})" if arguments else family["type"]


def _check_names(settings: ComparisonSettings, schemes: Mapping[str, Any], overrides: Iterable[str]) -> None:
    slugs: dict[str, str] = {}
    for name in schemes:
        other = slugs.setdefault(slug(name).lower(), name)
        if other != name:
            raise ConfigError(f"cells: {other!r} and {name!r} would share a folder; name them further apart")
    for name in settings.published:
        if name not in schemes:
            raise ConfigError(f"published: no cell {name!r}; valid: {', '.join(map(repr, schemes))}")
    if settings.families and any(override.startswith("guide.family") for override in overrides):
        raise ConfigError("guide.family: the file lists families; override that, families=[full_normal] say")


def slug(name: str) -> str:
    """A name as a file's name."""
    return re.sub(r"[^\w.+-]+", "_", name, flags=re.ASCII).strip("_") or "cell"


def with_values(values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with single values set: `{"guide.refiner.lr": 0.1}`.

    >>> with_values({"guide": "svi"}, {"guide.refiner.lr": 0.1})
    {'guide': {'type': 'svi', 'refiner': {'lr': 0.1}}}
    """
    for key, value in chosen.items():
        *sections, last = key.split(".")
        changes = reduce(lambda inner, section: {section: inner}, reversed(sections), {last: value})
        values = merge(values, changes)
    return dict(values)


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
