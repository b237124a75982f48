"""What a measure gives back, and the files that an evaluation leaves."""

import json
import logging
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..files import replacing

_SUFFIX = ".evaluation"  # of the events file
_log = logging.getLogger(__name__)


def estimate(values: Tensor, groups: Tensor | None = None) -> dict[str, float]:
    r"""Mean and standard error of per-datapoint values (N,); `se` is NaN where there is one group alone.

    Datapoints of one group, patches of one photograph, are not independent; with group numbers (N,) the error is

    .. math:: \mathrm{se}^2 = \frac{G}{G - 1} \sum_{g=1}^G \Big( \frac1N \sum_{i \in g} (v_i - \bar v) \Big)^2

    which for groups of one is the usual one.

    Reference:
        Longitudinal data analysis using generalized linear models (Liang & Zeger, 1986), Biometrika 73(1)

    >>> estimate(torch.tensor([1.0, 3.0]))
    {'mean': 2.0, 'se': 1.0}
    >>> estimate(torch.tensor([1.0, 1.0, 3.0, 3.0]), groups=torch.tensor([7, 7, 8, 8]))
    {'mean': 2.0, 'se': 1.0}
    """
    values = values.detach().double().cpu()
    mean, sums = values.mean(), values - values.mean()
    if groups is not None:
        numbers, places = groups.cpu().unique(return_inverse=True)
        sums = sums.new_zeros(len(numbers)).index_add(0, places, sums)
    n = len(sums)
    error = math.sqrt(n / (n - 1) * sums.square().sum().item()) / len(values) if n > 1 else math.nan
    return {"mean": mean.item(), "se": error}


@contextmanager
def attempt(failed: dict[str, str], name: str) -> Iterator[None]:
    """Inside, an exception ends the block and is noted in `failed`; that memory has run out is raised.

    >>> failed = {}
    >>> with attempt(failed, "half"):
    ...     1 / 0
    >>> failed
    {'half': 'ZeroDivisionError: division by zero'}
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        failed[name] = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        _log.debug("%s failed\n%s", name, traceback.format_exc())


@dataclass
class Measurement:
    """What a measure found.

    Attributes:
        numbers: For `evaluation.json`: nested dictionaries; means over datapoints are `estimate`s.
        values: For `evaluation.npz`, by name: an entry per datapoint (N,), or (N, ...).
        figures: For people, by file name without suffix.
        warnings: Sentences about what is not to be trusted, and what to do.
        failed: Why what is missing failed, by name of the measure or figure.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def draw(self, name: str, drawing: Callable[..., Figure | None], *args: Any) -> None:
        """Adds the figure that `drawing(*args)` gives, if it gives one; a figure that fails takes nothing down."""
        with attempt(self.failed, f"figure {name}"):
            if (figure := drawing(*args)) is not None:
                self.figures[name] = figure


def plain(value: Any) -> Any:
    """As JSON has it: tensors become lists, numbers that are none become null."""
    return json.loads(json.dumps(value, default=lambda tensor: tensor.tolist()), parse_constant=lambda _: None)


def write(run_dir: Path, result: dict[str, Any], found: Measurement) -> None:
    """The files of an evaluation, `evaluation.json` last: where it is, all is. OSError, if they cannot be written.

    Figures and curves of an earlier evaluation go. A figure that cannot be drawn is noted in the result's `failed`.
    """
    with attempt({}, "the earlier evaluation"):  # there may be none, or a damaged one
        for name in json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))["figures"]:
            (run_dir / "figures" / f"{name}.png").unlink(missing_ok=True)
    for name, figure in found.figures.items():
        path = run_dir / "figures" / f"{name}.png"
        with attempt(result["failed"], f"figure {name}"), replacing(path) as part:
            figure.savefig(part, dpi=150, format="png")
    result["figures"] = [name for name in result["figures"] if f"figure {name}" not in result["failed"]]
    arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in found.values.items()}
    with replacing(run_dir / "evaluation.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    for old in run_dir.glob(f"events.out.tfevents.*{_SUFFIX}"):
        old.unlink()
    with SummaryWriter(run_dir, filename_suffix=_SUFFIX) as writer:
        for split, numbers in result["splits"].items():
            for name, value in _scalars(numbers):
                writer.add_scalar(f"evaluation_{split}/{name}", value)
        for name in result["figures"]:  # as drawn already
            with Image.open(run_dir / "figures" / f"{name}.png") as image:
                writer.add_image(f"evaluation/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")
    with replacing(run_dir / "evaluation.json") as path:
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _scalars(numbers: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        number = value.get("mean", value) if isinstance(value, dict) else value
        if isinstance(number, dict):
            yield from _scalars(number, f"{prefix}{name}.")
        elif isinstance(number, int | float) and not isinstance(number, bool):
            yield prefix + name, number
