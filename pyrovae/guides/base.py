"""What a guide is."""

from abc import abstractmethod

from pyro.nn import PyroModule
from torch import Tensor

from ..capture import isolated
from ..families import Family
from ..inference import Inferred


class Guide(PyroModule):
    """A way to find λ; as a Pyro program, a guide for a model of plate `"data"` and site `"z"`.

    A new guide writes `infer`. `pyrovae.fit` trains it, or any torch optimizer on `Trace_ELBO()(model, guide)(x)`.

    Args:
        family: Turns λ into q.
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    @abstractmethod
    def infer(self, x: Tensor, beta: float | Tensor = 1.0, record: bool = False) -> Inferred:
        """Finds λ for data `x` (B, *x_shape); `beta` and `record` are for guides that refine."""

    def teach(self, x: Tensor, inferred: Inferred, beta: float | Tensor) -> None:
        """Adds, as `pyro.factor`, what the ELBO at λ_K cannot teach. By default nothing."""

    def forward(self, x: Tensor, inferred: Inferred | None = None, beta: float | Tensor = 1.0) -> Tensor:
        """Samples z ~ q(z | x), shape (..., B, D); `inferred`, if at hand, saves inferring again."""
        if inferred is None:
            with isolated():  # an inner loop's sites and plates are no part of this guide's trace
                inferred = self.infer(x, beta)
        self.teach(x, inferred, beta)
        return self.family.sample(inferred.params)
