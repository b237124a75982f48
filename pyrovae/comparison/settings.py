"""The YAML file of a comparison."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from ..config import Config, ConfigError, apply_override
from ..config.components import nearest
from ..config.load import read_yaml
from ..config.schema import Strict
from .measures import PUBLISHABLE


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
        jobs: Cells trained side by side.
    """

    base: str | dict[str, Any] = Field(default_factory=dict)
    common: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, dict[str, Any] | None] = Field(min_length=1)
    families: list[str | dict[str, Any]] = Field(default_factory=list)
    seeds: list[NonNegativeInt] = Field(default_factory=lambda: [0], min_length=1)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    published: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    jobs: PositiveInt = 1

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
                if name == "source":
                    continue
                if name not in PUBLISHABLE:
                    message = f"{cell}.{name} is not measured; {nearest(name, [*PUBLISHABLE, 'source'])}"
                    raise PydanticCustomError("published", message.replace("{", "{{"))
                if isinstance(number, str):
                    raise PydanticCustomError("published", f"{cell}.{name} must be a number")
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
    try:
        settings = ComparisonSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(dict.fromkeys(_explain(dict(item)) for item in error.errors()))) from error
    return settings.model_copy(update={"evaluation": resolved_evaluation(settings.evaluation)}), for_cells


def resolved_evaluation(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `evaluate_run`, those that are not `given` by default.

    Raises:
        ConfigError: One line for each thing wrong.
    """
    from ..runs.evaluate import check_settings  # noqa: PLC0415 - imports much

    try:
        return check_settings(dict(given)).plain()
    except ConfigError as error:
        raise ConfigError("\n".join(f"evaluation.{line}" for line in str(error).splitlines())) from error


def _explain(error: dict[str, Any]) -> str:
    loc = [str(part) for part in error["loc"] if part not in ("str",) and not str(part).startswith("dict[")]
    key = ".".join(loc)
    if error["type"] == "extra_forbidden":
        valid = [*ComparisonSettings.model_fields, *Config.model_fields]
        return f"{key}: unknown key (value {error['input']!r}); {nearest(loc[-1], valid)}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}" if error["type"] == "missing" else f"{key}: {message}, got {error['input']!r}"
