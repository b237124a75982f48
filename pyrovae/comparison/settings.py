"""The YAML file of a comparison."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..config import Config, ConfigError, apply_override
from ..config.components import nearest
from ..config.load import explained, read_yaml
from ..config.schema import Strict
from ..validation import NonNegativeFloat, NonNegativeInt, PositiveInt
from .measures import PUBLISHABLE


class RunSettings(Strict):
    """`run:`, where cells run; docs/engines.md has the defaults that depend on the engine."""

    engine: Literal["local", "ray", "slurm"] = "local"
    jobs: PositiveInt | None = None  # cells side by side
    cpus: PositiveInt | None = None  # of a cell
    gpus: NonNegativeFloat | None = None  # of a cell; 0.5 for two cells on each
    retries: NonNegativeInt = 1
    slurm: dict[str, Any] = Field(default_factory=dict)  # options of submitit's

    @field_validator("gpus")
    @classmethod
    def _share(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value % 1:
            raise PydanticCustomError("gpus", "must be a share of one, or a whole number")
        return value


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
    """The whole file.

    Attributes:
        base: A training configuration, by its path relative to this file, or its sections.
        common: What all cells change of it.
        cells: Name -> what this cell changes.
        families: Each cell that names no `guide.family` is trained with each of these.
        seeds: Each cell is trained with each of these.
        evaluation: Settings of `evaluate_run`.
        published: Cell -> published numbers, and `source`.
        run: Where cells run.
        search: What is tuned before.
    """

    base: str | dict[str, Any] = Field(default_factory=dict)
    common: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, dict[str, Any] | None] = Field(min_length=1)
    families: list[str | dict[str, Any]] = Field(default_factory=list)
    seeds: list[NonNegativeInt] = Field(default_factory=lambda: [0], min_length=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    published: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    run: RunSettings = Field(default_factory=RunSettings)
    search: SearchSettings | None = None

    @field_validator("seeds")
    @classmethod
    def _unequal(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise PydanticCustomError("seeds", "each seed once")
        return value

    @field_validator("families")
    @classmethod
    def _named(cls, value: list[Any]) -> list[Any]:
        if any(isinstance(family, dict) and "type" not in family for family in value):
            raise PydanticCustomError("families", "a family is a name, or a block with type")
        return value

    @field_validator("published")
    @classmethod
    def _measured(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for cell, numbers in value.items():
            for name, number in numbers.items():
                problem = (
                    f"is not measured; {nearest(name, [*PUBLISHABLE, 'source'])}" if name not in PUBLISHABLE else ""
                )
                problem = problem or ("must be a number" if isinstance(number, str) else "")
                if problem and name != "source":
                    raise PydanticCustomError("published", "{text}", {"text": f"{cell}.{name} {problem}"})
        return value


def load_settings(path: Path, overrides: Iterable[str] = ()) -> tuple[ComparisonSettings, list[str]]:
    """Reads a comparison; returns it, and those of the `overrides` that are for the training of every cell.

    `seeds=[0]` or `evaluation.num_data=100` change the comparison, `train.epochs=1` every cell.

    Raises:
        ConfigError: One line for each problem.
    """
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
