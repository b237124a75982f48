"""Bounds on log p(x) from both sides, on data whose posterior can be drawn from."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ..families import Family
from .ais import Annealed, by_chain, in_batches
from .annealing import Annealing, Start
from .frozen import evaluating
from .simulate import draw_joint
from .step_sizes import tuned_step_sizes


class Bidirectional(NamedTuple):
    """Bounds per datapoint, (B,), in nats."""

    x: Tensor  # (B, *x_shape) data drawn from the model
    lower: Tensor  # below log p(x) on average
    upper: Tensor  # above it on average
    acceptance: Tensor  # mean acceptance probability, of both ways


def bidirectional(
    model: nn.Module,
    family: Family,
    infer: Callable[[Tensor], Tensor],
    like: Tensor,
    *,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog: int = 5,
    start: Start = "q",
) -> Bidirectional:
    r"""log p(x) of data drawn from the model, between the bounds of bidirectional Monte Carlo.

    The z that made x is an exact draw from its posterior. From there the path of `ais` runs back to f_0, and

    .. math:: E \log \tfrac1C \sum_c w_c \;\le\; \log p(x) \;\le\; -E \log \tfrac1C \sum_c 1 / w'_c

    with w of the way there and w' of the way back. The gap bounds the error of `ais` on such data.

    Args:
        model: Pyro model of plate `"data"`, run without its observations to draw z and x.
        family: Turns λ into q.
        infer: x to λ.
        like: Data of the kind and number to draw, (B, *x_shape); its values do not matter.
        num_chains, num_steps, num_leapfrog, start: As in `ais`.

    Raises:
        ValueError: As `ais`; and a model that does not draw x.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv:1511.02543
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273
    """
    if num_chains < 1:
        raise ValueError(f"num_chains must be >= 1, got {num_chains}")
    annealing = Annealing(model, family, like, num_steps=num_steps, num_leapfrog=num_leapfrog, start=start)
    with evaluating(model):
        x, latent = draw_joint(model, like)
    u = annealing.space.coordinates({name: site["value"] for name, site in latent.items()})

    def run(x: Tensor, params: Tensor, u: Tensor) -> list[Annealed]:
        sizes = tuned_step_sizes(annealing, x, params, num_chains)
        runs = annealing.forward(x, params, num_chains, sizes), annealing.reverse(x, params, u, num_chains, sizes)
        return [by_chain(*one, num_chains) for one in runs]

    there, back = in_batches(annealing, run, num_chains, x, infer(x), u)
    upper = math.log(num_chains) - (-back.log_weights).logsumexp(0)
    return Bidirectional(x, there.bound, upper, (there.acceptance + back.acceptance) / 2)
