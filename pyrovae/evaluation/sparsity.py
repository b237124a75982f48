"""How few latent dimensions, or datapoints, a response needs."""

import torch
from torch import Tensor


def sparsity(responses: Tensor) -> Tensor:
    r"""Of responses (..., n), between 0 (all equal in size) and 1 (only one is not zero); NaN where all are zero.

    .. math:: S = \frac{1 - (\sum_i |r_i| / n)^2 / (\sum_i r_i^2 / n)}{1 - 1 / n}

    Signs are left out; normal responses of mean zero have 1 - 2 / π = 0.36. Population sparsity is that of a datapoint
    over dimensions, lifetime sparsity that of a dimension over datapoints.

    References:
        Sparse Coding and Decorrelation in Primary Visual Cortex During Natural Vision (Vinje & Gallant, 2000),
        Science 287
        Sparseness of the Neuronal Representation of Stimuli in the Primate Temporal Visual Cortex (Rolls & Tovee,
        1995), Journal of Neurophysiology 73
    """
    n, r = responses.shape[-1], responses.double().abs()
    if n < 2:
        return torch.full(r.shape[:-1], torch.nan, dtype=r.dtype, device=r.device)
    return (1 - r.mean(-1).square() / r.square().mean(-1)) / (1 - 1 / n)
