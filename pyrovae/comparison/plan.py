"""What a comparison will run: cells, each a scheme and a seed, and where each leaves its run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, ConfigError, apply_override, check, find_config
from ..config.load import read_yaml
from .merge import merge
from .settings import ComparisonSettings


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


def plan(settings: ComparisonSettings, overrides: Iterable[str], file: Path, out: Path) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted comparison has compared all schemes on the first ones.

    Raises:
        ConfigError: One line for each problem of any cell.
    """
    schemes = _schemes(settings, file)
    _check_names(settings, schemes, overrides)
    for values in schemes.values():
        for override in overrides:
            apply_override(values, override)
    cells, problems = [], dict[str, list[str]]()
    for seed in settings.seeds:
        for name, values in schemes.items():
            folder = f"{slug(name)}-seed_{seed}"
            where = {"seed": seed, "save_dir": str(out / "cells"), "name": folder}
            try:
                config = check({**values, "train": {**(values.get("train") or {}), **where}})
                cells.append(Cell(name, seed, config, out / "cells" / folder / "version_0"))
            except ConfigError as error:
                for line in str(error).splitlines():
                    problems.setdefault(line, []).append(name)
    if problems:
        raise ConfigError("\n".join(_blame(line, names, schemes) for line, names in problems.items()))
    return cells


def _schemes(settings: ComparisonSettings, file: Path) -> dict[str, dict[str, Any]]:
    """Sections of each scheme, by name."""
    base = settings.base if isinstance(settings.base, dict) else read_yaml(find_config(file).parent / settings.base)
    base = {section: values for section, values in base.items() if values is not None}
    base = merge(base, settings.common)
    schemes: dict[str, dict[str, Any]] = {}
    for name, changes in settings.cells.items():
        values = merge(base, changes or {})
        guide = (changes or {}).get("guide")
        if not settings.families or (isinstance(guide, Mapping) and "family" in guide):
            schemes[name] = values
            continue
        for family in settings.families:
            schemes[f"{name}, {family_name(family)}"] = merge(values, {"guide": {"family": family}})
    return schemes


def family_name(family: str | Mapping[str, Any]) -> str:
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


def _blame(line: str, names: list[str], schemes: Mapping[str, Any]) -> str:
    guilty = list(dict.fromkeys(names))
    return line if len(guilty) == len(schemes) else f"{line} (cells {'; '.join(guilty)})"


def slug(name: str) -> str:
    """A name as a file's name."""
    return re.sub(r"[^\w.+-]+", "_", name, flags=re.ASCII).strip("_") or "cell"
