"""The files of an evaluation."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ..files import replacing
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
    """The files of an evaluation, `evaluation.json` last: where it is, all is.

    Raises:
        OSError: They cannot be written.
    """
    _forget(run_dir)
    for name, figure in found.figures.items():
        with replacing(run_dir / "figures" / f"{name}.png") as path:
            figure.savefig(path, dpi=150, format="png")
    arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in found.values.items()}
    with replacing(run_dir / "evaluation.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    _log(run_dir, result, found)
    with replacing(run_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _forget(run_dir: Path) -> None:
    """Takes away the figures of an earlier evaluation: this one may not draw them all."""
    path = run_dir / "evaluation.json"
    if path.is_file():
        for name in json.loads(path.read_text(encoding="utf-8")).get("figures", []):
            (run_dir / "figures" / f"{name}.png").unlink(missing_ok=True)


def _log(run_dir: Path, result: dict[str, Any], found: Findings) -> None:
    """Numbers and figures for TensorBoard; those of an earlier evaluation are taken away."""
    for old in run_dir.glob(f"events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    with SummaryWriter(run_dir, filename_suffix=_SUFFIX) as writer:
        for split, numbers in result["splits"].items():
            for name, value in _scalars(numbers):
                writer.add_scalar(f"evaluation_{split}/{name}", value)
        for name in found.figures:  # as drawn already
            with Image.open(run_dir / "figures" / f"{name}.png") as image:
                writer.add_image(f"evaluation/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")


def _scalars(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        number = value.get("mean", value) if isinstance(value, dict) else value
        if isinstance(number, dict):
            yield from _scalars(number, f"{prefix}{name}.")
        elif isinstance(number, int | float) and not isinstance(number, bool):
            yield prefix + name, number
