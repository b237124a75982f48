"""What is measured."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Family
from ..guides import Guide

CHUNK_SIZE = 500  # datapoints inferred at a time


@dataclass(frozen=True)
class Subject:
    """A model, a guide, some datapoints, and what the guide found for them.

    Attributes:
        name: Of the split: `train`, `val`, `test`, or that of data from elsewhere.
        model: p(x, z).
        guide: q(z | x).
        x: Data (N, *x_shape).
        init: λ₀ (N, P).
        params: λ_K (N, P); for a guide that does not refine, λ₀ itself.
        labels: Class numbers (N,), if there are any.
        class_names: What they mean.
    """

    name: str
    model: Any
    guide: Guide
    x: Tensor
    init: Tensor
    params: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        model: nn.Module,
        guide: Guide,
        x: Tensor,
        labels: Tensor | None = None,
        class_names: tuple[str, ...] = (),
    ) -> "Subject":
        """Infers λ₀ and λ_K for `x`, in chunks; draws from torch's generator."""
        with torch.no_grad():
            found = [guide.infer(chunk) for chunk in x.split(CHUNK_SIZE)]
        init = torch.cat([part.init for part in found]).detach()
        refines = any(part.params is not part.init for part in found)
        params = torch.cat([part.params for part in found]).detach() if refines else init
        return cls(name, model, guide, x, init, params, labels, class_names)

    @property
    def family(self) -> Family:
        """Turns λ into q."""
        return self.guide.family

    @property
    def refines(self) -> bool:
        """Whether λ_K is another than λ₀."""
        return self.params is not self.init
