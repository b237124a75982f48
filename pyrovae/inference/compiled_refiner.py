"""A refiner whose step is always compiled."""

from torch import Tensor, nn

from ..capture import engine
from ..families import Family
from .refiner import Inferred, Refiner


class CompiledRefiner(Refiner):
    """`refiner` under `engine("compiled")`: the same λ from the same noise, sooner.

    The first call captures the refiner's own step and scores as graphs and compiles them (`Capture`); what cannot be
    captured runs eagerly, after one warning.

    Args:
        refiner: `SVIRefiner`, or any whose loop runs a `Capture`.
    """

    def __init__(self, refiner: Refiner) -> None:
        self.refiner = refiner

    def check(self, model: nn.Module, family: Family) -> None:
        self.refiner.check(model, family)

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        with engine("compiled"):
            return self.refiner(model, family, x, params, beta, record)
