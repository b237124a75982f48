"""Keep λ₀ where refinement made it worse."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..capture import Capture
from ..families import Family
from .elbo import Terms, common_noise, elbo_terms
from .refiner import Inferred


def keep_better(
    score: Callable[[Tensor], Terms], init: Tensor, start: Tensor, refined: Tensor, beta: float | Tensor
) -> Inferred:
    """λ_K where it is at least as good as the start, and the start where it is worse or not finite.

    Args:
        score: The ELBO's terms at a λ (B, P); called at both under common noise.
        init: λ₀ as it is to be returned, attached to what proposed it.
        start: Where the loop began (B, P).
        refined: Where it ended (B, P).
        beta: Weight of the KL term.
    """
    terms_init, terms = (Terms(*pair) for pair in common_noise(score, start.detach(), refined.detach()))
    # Written so that NaN, which compares false with everything, counts as worse.
    better = (terms.elbo(beta) >= terms_init.elbo(beta)) & refined.isfinite().all(-1)
    terms = Terms(*(torch.where(better, new, old) for new, old in zip(terms, terms_init, strict=True)))
    return Inferred(init, torch.where(better[:, None], refined, start), terms_init, terms, ~better)


def captured_score(model: nn.Module, family: Family, num_particles: int) -> Capture:
    """(x, λ) to the ELBO's terms, as a `Capture`."""

    def score(x: Tensor, params: Tensor) -> Terms:
        return elbo_terms(model, family, x, params, num_particles)

    return Capture(score, model, family, name="the score of refinement")
