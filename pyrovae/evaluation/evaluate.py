"""All measures of a model and a guide."""

import zlib
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..capture import engine
from ..guides import Guide
from ..training.noise import seed_noise
from .bounds import annealed, bounds
from .calibration import calibration
from .findings import Findings
from .gaps import gap_bars, gaps
from .hardness import hardness, occlusion_curve
from .predictive_checks import predictive_checks
from .representation import representation
from .settings import EvaluationSettings
from .subject import Subject
from .trajectories import trajectory
from .traversals import pictures


class Sample(NamedTuple):
    """Datapoints to measure on."""

    x: Tensor  # (N, *x_shape)
    labels: Tensor | None = None  # (N,)


class _Evaluation:
    """Runs measures one by one and keeps what they find.

    The noise of a measure is a function of the seed and of its name, so leaving one out changes no other.
    """

    def __init__(self, settings: EvaluationSettings, total: int, progress: bool) -> None:
        self.settings = settings
        self.found = Findings(numbers={"splits": {}, "seconds": {}})
        self.bar = tqdm(total=total, desc="evaluating", disable=not progress, unit="measure")

    def run(
        self, name: str, measure: Callable[..., Any], *args: Any, split: str = "", main: bool = True, **how: Any
    ) -> Any:
        """Calls `measure`, and merges what it finds: under its split, or at the top; figures only of the main one."""
        label = f"{name} {split}".strip()
        self.bar.set_postfix_str(label)
        device = next(arg.x.device for arg in args if hasattr(arg, "x"))
        seed_noise(device, self.settings.seed, "evaluation", zlib.crc32(label.encode()), 0)
        start = perf_counter()
        with engine(self.settings.engine):
            found = measure(*args, **how)
        if isinstance(found, Findings):
            self._merge(name, split, found, main)
        seconds = self.found.numbers["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + perf_counter() - start, 2)
        self.bar.update()
        return found

    def _merge(self, name: str, split: str, found: Findings, main: bool) -> None:
        numbers = self.found.numbers
        (numbers["splits"].setdefault(split, {}) if split else numbers).update(found.numbers)
        self.found.values.update({f"{split or name}/{key}": value for key, value in found.values.items()})
        self.found.figures.update(found.figures if main else {})
        self.found.warnings += [f"{split}: {text}" if split else text for text in found.warnings]
