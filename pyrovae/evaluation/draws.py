"""What is read off a posterior of any family, several latent sites or one."""

from typing import Any

import pyro
import torch
from torch import Tensor

from ..capture import isolated
from ..families import Family
from .subject import Subject

NUM_MEAN_DRAWS = 64  # where a family's mean has no closed form


def posterior_draws(family: Family, params: Tensor, num_draws: int) -> Tensor:
    """z ~ q(z | λ) for λ (B, P), flattened sites side by side, (num_draws, B, D); takes no gradient.

    By the family's program: a plug-in distribution, as a `Ladder` has one, would leave out how layers depend.
    """
    with torch.no_grad(), isolated(), pyro.validation_enabled(False), pyro.plate("draws", num_draws, dim=-2):
        return family.sample(params)


def reconstruct(model: Any, family: Family, params: Tensor) -> Tensor:
    """E[x | z] at the mean of q, (B, *x_shape), for a model with `decode`; takes no gradient."""
    with torch.no_grad():
        return model.decode(posterior_mean(family, params)).mean


def posterior_mean(family: Family, params: Tensor) -> Tensor:
    """E_q[z] for λ (B, P), (B, D); of a few draws where there is no closed form. Takes no gradient."""
    with torch.no_grad():
        try:
            return family(params).mean
        except NotImplementedError:
            return posterior_draws(family, params, NUM_MEAN_DRAWS).mean(0)


def reconstructions(subject: Subject, num: int) -> dict[str, Tensor]:
    """`inputs`, E[x | z] at the means of q at λ₀ and λ_K, and `labels`, of the first `num` datapoints."""
    model, family = subject.model, subject.family
    return {
        "inputs": subject.x[:num],
        "reconstructions_init": reconstruct(model, family, subject.init[:num]),
        "reconstructions": reconstruct(model, family, subject.params[:num]),
        **({} if subject.labels is None else {"labels": subject.labels[:num]}),
    }
