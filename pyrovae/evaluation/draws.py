"""What is read off a posterior of any family, several latent sites or one."""

import pyro
import torch
from torch import Tensor

from ..capture import isolated
from ..families import Family

NUM_MEAN_DRAWS = 64  # where a family's mean has no closed form


def posterior_draws(family: Family, params: Tensor, num_draws: int) -> Tensor:
    """z ~ q(z | λ) for λ (B, P), flattened sites side by side, (num_draws, B, D); takes no gradient.

    By the family's program: a plug-in distribution, as a `Ladder` has one, would leave out how layers depend.
    """
    with torch.no_grad(), isolated(), pyro.validation_enabled(False), pyro.plate("draws", num_draws, dim=-2):
        return family.sample(params)


def posterior_mean(family: Family, params: Tensor) -> Tensor:
    """E_q[z] for λ (B, P), (B, D); of a few draws where there is no closed form. Takes no gradient."""
    with torch.no_grad():
        try:
            return family(params).mean
        except NotImplementedError:
            return posterior_draws(family, params, NUM_MEAN_DRAWS).mean(0)
