"""Evaluates a run, and leaves the results in its folder."""

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch.utils.tensorboard import SummaryWriter

from .build import Trained, build_data
from .config import ConfigError, load_config
from .data import SHIFTS, ImageData, shifted
from .evaluation import EvaluationSettings, Findings, Sample, evaluate
from .run_folder import open_run, versions

_SUFFIX = ".evaluation"
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
    samples = {split: _sample(data, split, chosen.num_data) for split in chosen.splits}
    main = "test" if "test" in samples else chosen.splits[-1]
    samples |= {_name(shift): _shift(data, shift, chosen.num_data) for shift in chosen.shifts}
    found = evaluate(
        trained.model,
        trained.guide,
        samples,
        main=main,
        probe=_probe(data, chosen),
        occluded={share: _shift(data, "occluded", chosen.num_data, fraction=share) for share in OCCLUDED},
        class_names=data.class_names,
        settings=chosen,
        progress=progress,
    )
    result = _plain({**_origin(run_dir, trained, data), "settings": chosen.plain(), **found.numbers})
    result["warnings"] = found.warnings
    _write(run_dir, result, found)
    return result


def check_settings(values: dict[str, Any]) -> EvaluationSettings:
    """Settings from plain values.

    Raises:
        ConfigError: One line for each thing wrong.
    """
    try:
        settings = EvaluationSettings.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'][0].lower()}{e['msg'][1:]}, got {e['input']!r}"
            for e in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
    for shift in settings.shifts:
        if shift not in SHIFTS and not shift.endswith((".yaml", ".yml")):
            known = ", ".join(SHIFTS)
            raise ConfigError(f"shifts: {shift!r} is unknown; valid: {known}, or a YAML file that names a data set")
    return settings


def _sample(data: ImageData, split: Any, num: int) -> Sample:
    return Sample(*data.take(split, num))


def _shift(data: ImageData, shift: str, num: int, **how: Any) -> Sample:
    """Test data from elsewhere: shifted, or those of another set."""
    if shift in SHIFTS:
        return _sample(shifted(data, shift, **how), "test", num)
    other = build_data(load_config(shift))
    if other.x_shape != data.x_shape:
        raise ConfigError(f"shifts: {shift} has images {other.x_shape}, and the run's are {data.x_shape}")
    return _sample(other, "test", num)


def _name(shift: str) -> str:
    return Path(shift).stem


def _probe(data: ImageData, settings: EvaluationSettings) -> Sample | None:
    """Training data for probes: the last of the split, where those that are measured are the first."""
    x, labels = data.take("train")
    num = min(settings.num_probe, len(x) - settings.num_data)
    return None if labels is None or num < 1 else Sample(x[-num:], labels[-num:])


def _origin(run_dir: Path, trained: Trained, data: ImageData) -> dict[str, Any]:
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


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(run_dir: Path, result: dict[str, Any], found: Findings) -> None:
    """The files of an evaluation, `evaluation.json` last: where it is, all is."""
    figures = run_dir / "figures"
    try:
        figures.mkdir(exist_ok=True)
        for name, figure in found.figures.items():
            figure.savefig(figures / f"{name}.png", dpi=150)
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **{name: value.cpu().numpy() for name, value in found.values.items()})
        _replace(run_dir / "evaluation.npz", arrays.getvalue())
        _log(run_dir, result, found)
        _replace(run_dir / "evaluation.json", (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise OSError(f"cannot write to {run_dir} ({error.strerror}); make it writable, or copy the run") from error


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def _log(run_dir: Path, result: dict[str, Any], found: Findings) -> None:
    """Numbers and figures for TensorBoard; those of an earlier evaluation are taken away."""
    for old in run_dir.glob(f"events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    with SummaryWriter(run_dir, filename_suffix=_SUFFIX) as writer:
        for split, numbers in result["splits"].items():
            for name, value in _scalars(numbers):
                writer.add_scalar(f"evaluation_{split}/{name}", value)
        for name, figure in found.figures.items():
            writer.add_figure(f"evaluation/{name}", figure)


def _scalars(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if isinstance(value, dict):
            value = value["mean"] if "mean" in value else value
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value
