"""What a model is, and what one can ask of it."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A Pyro program p(x, z) that scores a batch x (B, *x_shape): plate `"data"` of size B, latent and observed sites.

    What a model may have besides:

    - `sites`, a tuple of str: its latent sites, in the order that a family has them in; by default the program's.
    - `decode(z)`: p(x | z) as a distribution, for z (..., *event_shape) as a family draws it.
    - `sample(num_samples)`: E[x | z] at draws from the prior, (num_samples, *x_shape).

    >>> import pyrovae as pv
    >>> isinstance(pv.models.mlp((784,), z_dim=8), Model)
    True
    """

    def __call__(self, x: Tensor) -> Any: ...


def can_decode(model: object) -> bool:
    """Whether a model has p(x | z): without it there are no reconstructions, and no predictive checks.

    >>> can_decode(lambda x: None)
    False
    """
    return callable(getattr(model, "decode", None))


def can_sample(model: object) -> bool:
    """Whether a model draws from its prior: without it there are no samples to look at.

    >>> can_sample(lambda x: None)
    False
    """
    return callable(getattr(model, "sample", None))
