"""The files of an evaluation."""

import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from .findings import Findings

_SUFFIX = ".evaluation"  # of the events file


def plain(value: Any) -> Any:
    """As JSON has it: numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(run_dir: Path, result: dict[str, Any], found: Findings) -> None:
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
        number = value.get("mean", value) if isinstance(value, dict) else value
        if isinstance(number, dict):
            yield from _scalars(number, f"{prefix}{name}.")
        elif isinstance(number, int | float) and not isinstance(number, bool):
            yield prefix + name, number
