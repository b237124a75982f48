"""How well E[x | z] at the posterior mean gives the data back."""

import math
from typing import Any

import torch
from torch import Tensor

from .findings import estimate

CHUNK_SIZE = 500  # datapoints decoded at a time
MAX_PSNR = 120.0  # dB; of a perfect reconstruction, where it has no end


def reconstruction_errors(model: Any, x: Tensor, means: Tensor) -> Tensor:
    """Mean squared error over the entries of each datapoint, (N,), in squared units of x; z is the mean (N, D)."""
    with torch.no_grad():
        pairs = zip(x.split(CHUNK_SIZE), means.split(CHUNK_SIZE), strict=True)
        return torch.cat([_mean_square(model.decode(z).mean - part) for part, z in pairs])


def reconstruction_quality(x: Tensor, mse: Tensor) -> dict[str, dict[str, float]]:
    r"""`mse`, `psnr` (dB) and `r2` from the errors (N,) of data x (N, *x_shape).

    .. math:: \mathrm{PSNR} = 10 \log_{10} \frac{R^2}{\mathrm{mse}}, \qquad
        R^2 = 1 - \frac{\sum_n \mathrm{mse}_n}{\sum_n \mathrm{mean}_j (x_{nj} - \bar x_j)^2}

    with x̄ the mean datapoint; the standard error of R² is that of a ratio of sums. PSNR is the mean over datapoints, at
    most 120 dB each.
    """
    mse, spread = mse.double(), _mean_square(x - x.mean(0)).double()
    psnr = (20 * math.log10(data_range(x)) - 10 * mse.log10()).clamp(max=MAX_PSNR)
    r2 = (1 - mse.sum() / spread.sum()).item() if spread.sum() > 0 else math.nan
    error = estimate(((1 - r2) * spread - mse) / spread.mean())["se"]
    return {"mse": estimate(mse), "psnr": estimate(psnr), "r2": {"mean": r2, "se": error}}


def data_range(x: Tensor) -> float:
    """1 for data in [0, 1]; else the largest entry less the smallest."""
    low, high = x.aminmax()
    return 1.0 if low >= 0 and high <= 1 else (high - low).item()


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().flatten(1).mean(1)
