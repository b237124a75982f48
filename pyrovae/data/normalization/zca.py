"""Whitening."""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from ..errors import DataError
from .normalization import Chunks, Normalization, entry_means

_WIDEST = 5000  # entries of x: of more, the eigenvectors take many minutes and gigabytes


class ZCA(Normalization):
    r"""Whitening that changes x least: entries become uncorrelated, and of variance 1.

    .. math:: y = U (\Lambda + \epsilon \bar\lambda)^{-1/2} U^\top (x - \mu), \qquad \Sigma = U \Lambda U^\top

    Σ is the covariance of training data and :math:`\bar\lambda` the mean of its eigenvalues. Directions in which
    training data do not vary at all become zero.

    Args:
        epsilon: ε, of the mean variance; 0 whitens wholly. In natural images, whose smallest variances are mostly
            noise, some is wanted.

    Raises:
        DataError: ε below zero; in `fit`, data of too many entries.

    Reference:
        The "independent components" of natural scenes are edge filters (Bell & Sejnowski, 1997),
        doi:10.1016/S0042-6989(97)00121-1
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, *, epsilon: NonNegativeFloat = 0.01) -> None:
        super().__init__()
        if not epsilon >= 0:
            raise DataError(f"epsilon must be >= 0, got {epsilon}")
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("matrix", torch.zeros(0, 0))

    def fit(self, chunks: Chunks) -> None:
        mean = entry_means(chunks)
        size = mean.numel()
        if size > _WIDEST:
            raise DataError(
                f"normalize zca: a datapoint has {size} entries, and whitening takes {_WIDEST} at most; use "
                "standardize, or smaller images"
            )
        covariance, count = torch.zeros(size, size, dtype=torch.float64), 0
        for chunk in chunks():
            rows = (chunk.double() - mean).flatten(1)
            covariance.addmm_(rows.T, rows)
            count += len(chunk)
        values, vectors = torch.linalg.eigh(covariance / count)  # ascending
        varies = values > 1e-10 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
        gain = torch.where(varies, (values.clamp(min=0) + self.epsilon * values.mean()).rsqrt(), 0.0)
        matrix = (vectors * gain) @ vectors.T
        self.mean, self.matrix = mean.float(), ((matrix + matrix.T) / 2).float()  # rounding left it not quite symmetric

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean).flatten(1) @ self.matrix).view_as(x)
