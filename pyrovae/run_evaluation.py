"""Evaluates a run, and leaves the results in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from .build import Trained, build_data
from .config import ConfigError, load_config, nearest
from .data import Dataset
from .data.normalization.normalized import as_in
from .data.shifts import SHIFTS, can_shift, shifted
from .evaluation.evaluate import Sample, evaluate
from .evaluation.files import plain, write
from .evaluation.settings import EvaluationSettings
from .files import check_writable
from .run_folder import open_run, threads_of, versions

OCCLUDED = (0.1, 0.3, 0.5)  # shares of the image, for the curve of gaps against occlusion


def evaluate_run(
    run_dir: str | Path, *, overrides: Sequence[str] = (), progress: bool = False, **settings: Any
) -> dict[str, Any]:
    """Measures a run on its own data: bounds, gaps, trajectories, representation, calibration.

    Writes `evaluation.json`, `evaluation.npz`, `figures/` and curves for TensorBoard into the run's folder.

    Args:
        run_dir: The run.
        overrides: Of the data set, `dataset.root=DIR` say.
        progress: Show a bar.
        settings: As `EvaluationSettings` has them.

    Returns:
        What `evaluation.json` holds.

    Raises:
        CheckpointError: No run there, or a damaged checkpoint.
        ConfigError: Settings or overrides that cannot be followed.
        DataError: Data that cannot be read.
        OSError: The folder cannot be written.
    """
    run_dir, chosen = Path(run_dir), check_settings(settings)
    trained, data = open_run(run_dir, chosen.checkpoint, overrides)
    check_writable(run_dir / "figures", "make it writable, or copy the run")
    samples: dict[str, Sample] = {split: _sample(data, split, chosen.num_data) for split in chosen.splits}
    main = "test" if "test" in samples else chosen.splits[-1]
    shifts, left_out = _applicable(data, chosen.shifts)
    samples |= {_name(shift): _shift(data, shift, chosen.num_data) for shift in shifts}
    shares = OCCLUDED if "occluded" in shifts else ()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with threads_of(trained.config):
        found = evaluate(
            trained.model.to(device),
            trained.guide.to(device),
            samples,
            main=main,
            probe=_probe(data, chosen),
            occluded={share: _shift(data, "occluded", chosen.num_data, fraction=share) for share in shares},
            class_names=data.class_names,
            settings=chosen,
            progress=progress,
        )
    result = plain({**_origin(run_dir, trained, data), "main": main, "settings": chosen.plain(), **found.numbers})
    result |= {"warnings": [*left_out, *found.warnings], "figures": sorted(found.figures)}
    write(run_dir, result, found)
    return result


def check_settings(values: dict[str, Any]) -> EvaluationSettings:
    """Settings from plain values.

    Raises:
        ConfigError: One line for each thing wrong.
    """
    try:
        settings = EvaluationSettings.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(e) for e in error.errors() if e["type"] != "too_short" or not e["input"])
        raise ConfigError("\n".join(lines)) from error
    for shift in settings.shifts:
        if shift not in SHIFTS and not shift.endswith((".yaml", ".yml")):
            known = ", ".join(SHIFTS)
            raise ConfigError(f"shifts: {shift!r} is unknown; valid: {known}, or a YAML file that names a data set")
    return settings


def _explain(error: Any) -> str:
    """One line for one of pydantic's errors."""
    name, message = str(error["loc"][0]), error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown; {nearest(name, [*EvaluationSettings.model_fields])}"
    if error["type"] == "tuple_type":
        message = f"must be a list, [{error['input']}] say"
    return f"{name}: {message}, got {error['input']!r}"


def _sample(data: Dataset, split: Any, num: int) -> Sample:
    return Sample(*data.take(split, num))


def _applicable(data: Dataset, shifts: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Shifts that there are of such data, and a warning of the others."""
    if can_shift(data) or not (left_out := [shift for shift in shifts if shift in SHIFTS]):
        return tuple(shifts), []
    warning = f"{', '.join(left_out)}: left out, for they are shifts of 8-bit images, and {data.name} has none"
    return tuple(shift for shift in shifts if shift not in left_out), [warning]


def _shift(data: Dataset, shift: str, num: int, **how: Any) -> Sample:
    """Test data from elsewhere: shifted, or those of another set."""
    if shift in SHIFTS:
        return _sample(shifted(data, shift, num, **how), "test", num)
    other = build_data(load_config(shift))
    if other.x_shape != data.x_shape:
        raise ConfigError(f"shifts: {shift} has datapoints {other.x_shape}, and the run's are {data.x_shape}")
    return _sample(as_in(data, other), "test", num)


def _name(shift: str) -> str:
    return Path(shift).stem


def _probe(data: Dataset, settings: EvaluationSettings) -> Sample | None:
    """Training data for probes: the last of the split, where those that are measured are the first."""
    labels = data.labels.get("train")
    num = min(settings.num_probe, len(data.train) - settings.num_data)
    if labels is None or num < 1:
        return None
    return Sample(*data.take("train", start=len(data.train) - num))


def _origin(run_dir: Path, trained: Trained, data: Dataset) -> dict[str, Any]:
    """Where the numbers come from."""
    config = trained.config
    refiner = getattr(config.guide, "refiner", None)
    steps = getattr(refiner or config.guide, "num_steps", None)
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {}  # not there, if training was cut off
    return {
        "run": str(run_dir),
        "scheme": {
            "guide": config.guide.type,
            "family": config.guide.family.type,
            "refiner": getattr(refiner, "type", None),
            "num_steps": steps,
            "objective": config.train.objective.type,
        },
        "dataset": data.source,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "train_seconds": summary.get("seconds"),
        "num_parameters": sum(p.numel() for part in (trained.model, trained.guide) for p in part.parameters()),
        "versions": versions(),
    }
