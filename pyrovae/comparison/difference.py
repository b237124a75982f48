"""Differences between schemes on the same images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .results import Result


class Difference(NamedTuple):
    """A mean difference per image, in nats.

    Attributes:
        mean: Over images and seeds.
        se: Over images, of differences that are averaged over seeds first.
        se_over_seeds: Of the seeds' mean differences; NaN with fewer than two.
        num_images: Images that both have in common.
        num_seeds: Seeds that both have in common.
    """

    mean: float
    se: float
    se_over_seeds: float
    num_images: int
    num_seeds: int


def paired_difference(first: Sequence[Result], other: Sequence[Result], name: str = "elbo") -> Difference | None:
    """Mean of (other − first) per test image; None where they share no images or no seed.

    Weights of equal seeds start equal and the images are the same, so most of what varies from image to image cancels.

    Args:
        first: Results of one scheme, a seed each.
        other: Of the other scheme.
        name: Of the values to compare: `elbo`, `iwae`, `gap_inference`, ...
    """
    values = [{r.cell.seed: r for r in results if f"test/{name}" in r.values} for results in (first, other)]
    seeds = sorted(values[0].keys() & values[1].keys())
    results = [values[side][seed] for side in (0, 1) for seed in seeds]
    if not seeds or len({result.data for result in results}) > 1:
        return None
    common = set.intersection(*(set(_index(result, name).tolist()) for result in results))
    if len(common) < 2:
        return None
    one, two = (np.stack([_aligned(side[seed], name, common) for seed in seeds]) for side in values)  # (seeds, N)
    differences = two - one
    per_image, per_seed = differences.mean(0), differences.mean(1)
    over_seeds = per_seed.std(ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
    se = per_image.std(ddof=1) / math.sqrt(len(per_image))
    return Difference(float(per_image.mean()), float(se), float(over_seeds), len(per_image), len(seeds))


def _index(result: Result, name: str) -> np.ndarray:
    """Numbers of the images that the values are of."""
    num_values = len(result.values[f"test/{name}"])
    index = result.values.get("test/index")
    return np.arange(num_values) if index is None else index[:num_values]


def _aligned(result: Result, name: str, common: set[int]) -> np.ndarray:
    """The values of the `common` images, in order of their numbers."""
    index = _index(result, name)
    order = np.argsort(index, kind="stable")
    kept = np.isin(index[order], sorted(common))
    return result.values[f"test/{name}"][order][kept].astype(np.float64)
