"""What evaluated cells left on disk: measures, their errors, and differences between schemes on the same images."""

import csv
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..runs.load import read_summary
from ..training import is_of

if TYPE_CHECKING:
    from .plan import Cell

MEASURES: dict[str, tuple[str, ...]] = {  # where each stands under splits.<split> of evaluation.json
    **{name: (name,) for name in ("elbo_init", "elbo", "elbo_optimum", "log_evidence", "iwae")},
    **{name: ("gap", name) for name in ("approximation", "amortization", "recovered", "remaining", "inference")},
    **{name: (name,) for name in ("dims_in_use", "dims_in_use_init")},
    **{"knn": ("probe", "knn"), "linear": ("probe", "linear"), "mse": ("reconstruction", "mse")},
}
_OF_THE_SET = 16  # the last numbers of a sketch, raw values; those before are of x


class Estimate(NamedTuple):
    """A mean and its standard error; NaN where there is none."""

    mean: float
    se: float = math.nan


@dataclass(frozen=True)
class Result:
    """One evaluated cell."""

    cell: "Cell"
    evaluation: Mapping[str, Any]  # evaluation.json
    values: Mapping[str, np.ndarray]  # evaluation.npz, an entry per datapoint
    curve: Sequence[tuple[float, float]]  # (seconds of training, validation ELBO) at each validation
    summary: Mapping[str, Any] = field(default_factory=dict)  # summary.json

    @property
    def main(self) -> str:
        """The split that its evaluation measures most on."""
        splits = self.evaluation.get("splits") or {"test": {}}
        return next(name for name in (self.evaluation.get("main"), "test", *splits) if name in splits)

    @property
    def num_steps(self) -> int:
        """K of training; 0 for a guide that does not refine."""
        return nested(self.evaluation, "scheme", "num_steps") or 0

    @property
    def train_seconds(self) -> Estimate | None:
        """What training took without validation, in all its parts; else what its last part took."""
        return Estimate(self.curve[-1][0]) if self.curve else _as_estimate(self.evaluation.get("train_seconds"))

    @property
    def ms_per_image(self) -> Estimate | None:
        """Milliseconds of inference a datapoint, with the inner steps of training."""
        found = self.along("seconds_per_image").get(self.num_steps)
        return None if found is None else Estimate(1e3 * found)

    def along(self, name: str) -> dict[int, float]:
        """Values along the inner steps, by step."""
        steps, values = (nested(self.evaluation, "trajectory", key) or [] for key in ("step", name))
        return dict(zip(steps, values, strict=False))

    def sketch(self, split: str) -> list[float]:
        """A few numbers of the images measured, by which those of another result can be told from them."""
        return [value or 0.0 for value in nested(self.evaluation, "splits", split, "sketch") or []]

    def measure(self, name: str, split: str) -> Estimate | None:
        """A measure by name, in nats a datapoint if it is a bound or a gap; None where it was not taken."""
        if name == "nll":
            iwae = self.measure("iwae", split)
            return iwae and Estimate(-iwae.mean, iwae.se)
        return _as_estimate(nested(self.evaluation, "splits", split, *MEASURES[name]))


def nested(values: Any, *keys: str) -> Any:
    """What stands under keys in keys; None where there is nothing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _as_estimate(value: Any) -> Estimate | None:
    """From a number, or from a mapping with `mean` and `se`; None from anything else."""
    mean, se = (value.get("mean"), value.get("se")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(mean, int | float):
        return None
    return Estimate(float(mean), float(se) if isinstance(se, int | float) else math.nan)


def read_results(cells: Iterable["Cell"]) -> tuple[list[Result], list[str]]:
    """The results of cells, and a line for each whose evaluation is missing or damaged."""
    results, unreadable = [], []
    for cell in cells:
        try:
            results.append(_read(cell))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "remove its evaluation.json, and the same command evaluates it again"
            unreadable.append(f"{cell.name}: cannot read the evaluation in {cell.run_dir} ({reason}); {remedy}")
    return results, unreadable


def _read(cell: "Cell") -> Result:
    evaluation = json.loads((cell.run_dir / "evaluation.json").read_text(encoding="utf-8"))
    splits = nested(evaluation, "splits")
    if not isinstance(splits, dict) or not all(isinstance(found, dict) for found in splits.values()):
        raise ValueError("evaluation.json holds no splits")
    values: dict[str, np.ndarray] = {}
    if (cell.run_dir / "evaluation.npz").is_file():
        with np.load(cell.run_dir / "evaluation.npz") as arrays:
            values = dict(arrays)
    rows = [(row.get("train/seconds"), row.get("val/elbo")) for row in read_metrics(cell)]
    curve = [(float(seconds), float(elbo)) for seconds, elbo in rows if seconds and elbo]
    return Result(cell, evaluation, values, curve, read_summary(cell.run_dir))


def read_metrics(cell: "Cell") -> list[dict[str, str]]:
    """The rows of a cell's `metrics.csv`, so far."""
    path = cell.run_dir / "metrics.csv"
    return [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())] if path.is_file() else []


def by_scheme(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each scheme, one a seed."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.cell.scheme, []).append(result)
    return groups


def pooled(values: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """The mean of values (S, N), of S seeds and N datapoints, and its standard error over both.

    se² = var(means over seeds) / N + var(means over datapoints) / S: other datapoints and other seeds might have been
    drawn. One seed gives no more than the first. Datapoints of one of `groups` (N,), the photograph that a patch is
    from, are not independent: the first is then over groups (Liang & Zeger 1986).

    >>> pooled(np.array([[1.0, 2, 3], [3.0, 4, 5]]))
    Estimate(mean=3.0, se=1.154...)
    """
    (num_seeds, num), by_seed, away = values.shape, values.mean(1), values.mean(0) - values.mean()
    if groups is not None:
        away = np.bincount(np.unique(groups, return_inverse=True)[1], away)
    n = len(away)
    parts = [n / (n - 1) * (away**2).sum() / num**2] if n > 1 else []
    parts += [by_seed.var(ddof=1) / num_seeds] if num_seeds > 1 else []
    return Estimate(float(values.mean()), math.sqrt(sum(parts)) if parts else math.nan)


def over_seeds(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """As `pooled`, from each seed's mean and error: the part over datapoints is then at most too large."""
    known = [estimate for estimate in estimates if estimate is not None]
    if len(known) < 2:
        return known[0] if known else None
    means, errors = np.array(known).T
    over_data = np.nan_to_num(errors**2).mean()  # 0 of what has no error, seconds say
    return Estimate(float(means.mean()), math.sqrt(over_data + means.var(ddof=1) / len(means)))


def same_images(one: Result, other: Result, split: str) -> bool:
    """Whether both were measured on the same x of the same data: sketches say so, never a path or a name."""
    a, b = one.sketch(split), other.sketch(split)
    alike = (is_of(a[part], b[part]) for part in (slice(-_OF_THE_SET), slice(-_OF_THE_SET, None)))
    return bool(a) and len(a) == len(b) and all(alike)


def stacked(results: Sequence[Result], names: Sequence[str], split: str) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Values (names, results, N) of the images that all results have, how many are left out, and the images' groups.

    One mask for all: an image is in where every value of it is finite. N = 0 where results lack the values, or are of
    different images.
    """
    keys, first = [f"{split}/{name}" for name in names], results[0]
    known = keys and all(key in result.values for key in keys for result in results)
    if not known or not all(same_images(first, result, split) for result in results[1:]):
        return np.empty((len(keys), len(results), 0)), 0, None
    index = [result.values.get(f"{split}/index", np.arange(len(result.values[keys[0]]))) for result in results]
    common = np.array(sorted(set.intersection(*(set(part.tolist()) for part in index))), dtype=int)
    places = [np.argsort(part)[np.searchsorted(np.sort(part), common)] for part in index]
    found = np.array([[r.values[key][at] for r, at in zip(results, places, strict=True)] for key in keys], dtype=float)
    finite, groups = np.isfinite(found).all((0, 1)), first.values.get(f"{split}/groups")
    return found[..., finite], int((~finite).sum()), None if groups is None else groups[places[0]][finite]


class Difference(NamedTuple):
    """A mean difference per image over images and seeds, its error as of `pooled`, and of how many both have."""

    mean: float  # nats
    se: float
    num_images: int  # in common and finite
    num_seeds: int
    num_left_out: int  # images in common that are not finite

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.mean - 1.96 * self.se, self.mean + 1.96 * self.se


def paired_difference(
    first: Sequence[Result], other: Sequence[Result], name: str = "elbo", split: str | None = None
) -> Difference | None:
    """Mean of (other − first) per image; None where they share no two images or no seed.

    Weights of equal seeds start equal and the images are the same, so most of what varies from image to image cancels.

    Args:
        first, other: Results of two schemes, a seed each.
        name: Of the values to compare: `elbo`, `iwae`, `gap_inference`, ...
        split: By default the first result's main one.

    >>> from types import SimpleNamespace as Cell
    >>> of = {"splits": {"test": {"sketch": [0.1, 0.2]}}}
    >>> one, two = (Result(Cell(seed=0), of, {"test/elbo": np.array(x)}, []) for x in ([1.0, 5, 9], [3.0, 8, 12]))
    >>> round(paired_difference([one], [two]).mean, 2)
    2.67
    """
    split = split or first[0].main
    by_seed = [{r.cell.seed: r for r in results if f"{split}/{name}" in r.values} for results in (first, other)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        return None
    (values,), left_out, groups = stacked([side[seed] for side in by_seed for seed in seeds], [name], split)
    if values.shape[1] < 2:
        return None
    mean, se = pooled(values[len(seeds) :] - values[: len(seeds)], groups)
    return Difference(mean, se, values.shape[1], len(seeds), left_out)
