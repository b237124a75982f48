"""What a comparison runs: its YAML file, and the cells of it, each a scheme and a seed."""

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..config import COMPONENTS, Config, ConfigError, apply_override, check, find_config
from ..config.components import nearest
from ..config.load import explained, read_yaml
from ..config.schema import Strict
from ..validation import NonNegativeFloat, NonNegativeInt, PositiveInt
from .results import MEASURES

_PUBLISHABLE = ["nll", *MEASURES]  # nll is minus iwae
# Keys whose value names a component and its arguments.
_BLOCKS = ({*COMPONENTS} - {"model"}) | {"layers", "beta_warmup", "base"}


def _must(hold: Callable[[Any], bool], text: str) -> AfterValidator:
    def checked(value: Any) -> Any:
        if not hold(value):
            raise PydanticCustomError("value", "{text}", {"text": text})
        return value

    return AfterValidator(checked)


_SHARE = _must(lambda gpus: not gpus or gpus <= 1 or gpus % 1 == 0, "must be a share of one, or a whole number")
_ONCE = _must(lambda seeds: len({*seeds}) == len(seeds), "each seed once")
_BLOCK = _must(lambda family: isinstance(family, str) or "type" in family, "a family is a name, or a block with type")


def _published(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for cell, numbers in value.items():
        for name, number in numbers.items():
            known = name in _PUBLISHABLE
            problem = "must be a number" if known else f"is not measured; {nearest(name, [*_PUBLISHABLE, 'source'])}"
            if name != "source" and (isinstance(number, str) or not known):
                raise PydanticCustomError("published", "{text}", {"text": f"{cell}.{name} {problem}"})
    return value


class RunSettings(Strict):
    """`run:`, where cells run; docs/engines.md has the defaults that depend on the engine."""

    engine: Literal["local", "ray", "slurm"] = "local"
    jobs: PositiveInt | None = None  # cells side by side
    cpus: PositiveInt | None = None  # of a cell
    gpus: Annotated[NonNegativeFloat | None, _SHARE] = None  # of a cell; 0.5 for two cells on each
    retries: NonNegativeInt = 1
    slurm: dict[str, Any] = Field(default_factory=dict)  # options of submitit's


class Range(Strict):
    """Numbers from `low` to `high`; whole ones, if both ends are. With `log`, their logarithms are drawn uniformly."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not (0 if self.log else -float("inf")) < self.low < self.high:
            raise PydanticCustomError("range", "must have low < high, and 0 < low with log")
        return self


Choices = Annotated[
    Annotated[list[Any], Tag("list"), Field(min_length=1)] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, Mapping | Range) else "list"),
]


class SearchSettings(Strict):
    """`search:`, for values with which a scheme does best."""

    trials: PositiveInt  # trainings of each scheme
    maximize: str = "val/elbo"  # a key of summary.json
    space: dict[str, Choices] = Field(min_length=1)  # by key, `guide.refiner.lr` say
    prune_after: NonNegativeInt | None = 2  # epochs, before a trial that lags behind may be ended


class ComparisonSettings(Strict):
    """The whole file."""

    base: str | dict[str, Any] = Field(default_factory=dict)  # a training configuration, by path from here, or sections
    common: dict[str, Any] = Field(default_factory=dict)  # what all cells change of it
    cells: dict[str, dict[str, Any] | None] = Field(min_length=1)  # name -> what this cell changes
    # Each cell that names no `guide.family` is trained with each of these.
    families: list[Annotated[str | dict[str, Any], _BLOCK]] = Field(default_factory=list)
    seeds: Annotated[list[NonNegativeInt], _ONCE] = Field(default_factory=lambda: [0], min_length=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)  # settings of `evaluate_run`
    # Cell -> published numbers, and `source`.
    published: Annotated[dict[str, dict[str, float | str]], AfterValidator(_published)] = Field(default_factory=dict)
    run: RunSettings = Field(default_factory=RunSettings)
    search: SearchSettings | None = None


def load_settings(path: Path, overrides: Iterable[str] = ()) -> tuple[ComparisonSettings, list[str]]:
    """Reads a comparison; returns it, and those of the `overrides` that are for the training of every cell."""
    values = read_yaml(path)
    if "cells" not in values and {"model", "guide"} & values.keys():
        raise ConfigError(f"{path}: is for training one run; a comparison has cells:, see configs/compare/quick.yaml")
    for_cells = []
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] in Config.model_fields:
            apply_override({}, override)  # is it written as one?
            for_cells.append(override)
        else:
            apply_override(values, override)
    return checked_settings(values), for_cells


def checked_settings(values: Mapping[str, Any]) -> ComparisonSettings:
    """Settings from plain values, those of `evaluate_run` filled in; a `ConfigError` has a line for each problem."""
    try:
        settings = ComparisonSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explained(error, ComparisonSettings, values)) from error
    from ..runs.evaluate import check_settings  # noqa: PLC0415 - imports much

    try:
        evaluation = check_settings(settings.evaluation).plain()
    except ConfigError as error:
        raise ConfigError("\n".join(f"evaluation.{line}" for line in str(error).splitlines())) from error
    return settings.model_copy(update={"evaluation": evaluation})


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    scheme: str  # name of what is compared; the same for all seeds
    seed: int  # of weights, batches and noise
    config: Config  # resolved and checked
    run_dir: Path  # that training writes, or has written

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.scheme}, seed {self.seed}"

    @property
    def file_name(self) -> str:
        """Of its configuration and its log, without suffix."""
        return f"{slug(self.scheme)}-seed_{self.seed}"


def plan(settings: ComparisonSettings, schemes: Mapping[str, Mapping[str, Any]], out: Path) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted comparison has compared all `schemes` on the first ones."""
    cells, problems = [], dict[str, dict[str, None]]()
    for seed in settings.seeds:
        for name, values in schemes.items():
            try:
                cells.append(cell_of(name, seed, values, out / "cells"))
            except ConfigError as error:
                for line in str(error).splitlines():
                    problems.setdefault(line, {})[name] = None
    if problems:
        blame = {line: f" (cells {'; '.join(names)})" for line, names in problems.items() if len(names) < len(schemes)}
        raise ConfigError("\n".join(line + blame.get(line, "") for line in problems))
    return cells


def cell_of(scheme: str, seed: int, values: Mapping[str, Any], folder: Path) -> Cell:
    """The cell of a configuration's sections, whose run is below `folder`; errors are those of `check`."""
    name = f"{slug(scheme)}-seed_{seed}"
    where = {"seed": seed, "save_dir": str(folder), "name": name}
    config = check({**values, "train": {**(values.get("train") or {}), **where}})
    return Cell(scheme, seed, config, folder / name / "version_0")


def schemes_of(settings: ComparisonSettings, overrides: Iterable[str], file: Path) -> dict[str, dict[str, Any]]:
    """The sections of each scheme's configuration, by name: base, common, the cell's own, families, `overrides`."""
    base = settings.base
    if isinstance(base, str):  # by its path from the file's folder, or one of pyrovae's own by its name
        beside = find_config(file).parent / base
        base = read_yaml(beside if beside.is_file() else base)
    base = merge({section: values for section, values in base.items() if values is not None}, settings.common)
    schemes: dict[str, dict[str, Any]] = {}
    for name, changes in settings.cells.items():
        values, guide = merge(base, changes or {}), (changes or {}).get("guide")
        if not settings.families or (isinstance(guide, Mapping) and "family" in guide):
            schemes[name] = values
            continue
        for family in settings.families:
            schemes[f"{name}, {_family_name(family)}"] = merge(values, {"guide": {"family": family}})
    slugs: dict[str, str] = {}
    for name in schemes:
        if (other := slugs.setdefault(slug(name).lower(), name)) != name:
            raise ConfigError(f"cells: {other!r} and {name!r} would share a folder; name them further apart")
    if unknown := settings.published.keys() - schemes.keys():
        raise ConfigError(f"published: no cell {min(unknown)!r}; valid: {', '.join(map(repr, schemes))}")
    for override in overrides:
        if settings.families and override.startswith("guide.family"):
            raise ConfigError("guide.family: the file lists families; override that, families=[full_normal] say")
        for values in schemes.values():
            apply_override(values, override)
    return schemes


def _family_name(family: str | Mapping[str, Any]) -> str:
    """`flow`, or `flow (transform iaf)`."""
    if isinstance(family, str):
        return family
    arguments = ", ".join(f"{key} {value}" for key, value in family.items() if key != "type")
    return f"{family['type']} ({arguments})" if arguments else family["type"]


def slug(name: str) -> str:
    """A name as a file's name."""
    return re.sub(r"[^\w.+-]+", "_", name, flags=re.ASCII).strip("_") or "cell"


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, section by section; neither is altered.

    A component block of another `type` replaces what was there, because the arguments of one class mean nothing to
    another, and so does a bare name; one of the same type, or of none, changes single arguments.

    >>> merge({"guide": {"type": "svi", "family": "flow"}}, {"guide": "svi"})
    {'guide': 'svi'}
    """
    merged = deepcopy(dict(values))
    for key, new in changes.items():
        old, tag = merged.get(key), "name" if key == "dataset" else "type"
        if key in _BLOCKS and isinstance(new, Mapping):
            old = {tag: old} if isinstance(old, str) else old
            if isinstance(old, Mapping) and tag in old and tag in new and old[tag] != new[tag]:
                old = None
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            merged[key] = merge(old, new)
        else:
            merged[key] = deepcopy(new)
    return merged
