"""What is measured: datapoints and their posteriors, and what is read off a posterior of any family."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..capture import isolated
from ..families import Family
from ..guides import Guide
from .measurement import estimate

CHUNK_SIZE = 500  # datapoints inferred at a time
NUM_MEAN_DRAWS = 64  # where a family's mean has no closed form


class Amount(NamedTuple):
    """How much is on each datapoint, (N,), and the words for such data."""

    values: Tensor
    name: str
    formula: str
    datapoint: str
    entry: str


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
        groups: Group numbers (N,), of the photograph that a patch is from, if datapoints are not independent.

    >>> import pyrovae as pv
    >>> guide = pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((6,), (4,)))
    >>> subject = Subject.of("test", pv.models.mlp((6,), z_dim=2), guide, torch.ones(8, 6))
    >>> subject.params.shape, subject.refines, subject.amount().name
    (torch.Size([8, 4]), False, 'rate')
    """

    name: str
    model: Any
    guide: Guide
    x: Tensor
    init: Tensor
    params: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    groups: Tensor | None = None

    @classmethod
    def of(
        cls, name: str, model: nn.Module, guide: Guide, x: Tensor,
        labels: Tensor | None = None, class_names: tuple[str, ...] = (), groups: Tensor | None = None,
    ) -> "Subject":  # fmt: skip
        """Infers λ₀ and λ_K for `x`, in chunks; draws from torch's generator."""
        with torch.no_grad():
            found = [guide.infer(chunk) for chunk in x.split(CHUNK_SIZE)]
        init = torch.cat([part.init for part in found]).detach()
        refines = any(part.params is not part.init for part in found)
        params = torch.cat([part.params for part in found]).detach() if refines else init
        return cls(name, model, guide, x, init, params, labels, class_names, groups)

    @property
    def family(self) -> Family:
        return self.guide.family

    @property
    def refines(self) -> bool:
        return self.params is not self.init

    def estimate(self, values: Tensor, rows: Any = slice(None)) -> dict[str, float]:
        """`estimate` over the finite ones of values of the datapoints `rows`; errors are over groups, if there are."""
        good = values.isfinite().cpu()
        return estimate(values[good], None if self.groups is None else self.groups.cpu()[rows][good])

    def amount(self) -> Amount:
        """Of images ink, or contrast where no background, their median, prevails; of counts the rate."""
        known = self.x[self.x.isfinite()]
        size, spread = (self.x - known.median()).abs(), (known - known.median()).abs()
        if self.x.dim() == 4:
            ink = (spread <= 0.05 * spread.max()).double().mean() > 0.5
            words = "ink" if ink else "contrast", "mean |x − median|", "image", "pixel"
        elif (known >= 0).all() and (known == known.round()).all():
            size, words = self.x, ("rate", "mean count", "trial", "neuron")
        else:
            words = "size", "mean |x − median|", "datapoint", "entry"
        return Amount(size.flatten(1).mean(1), *words)


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


def reconstruct(model: Any, family: Family, params: Tensor) -> Tensor:
    """E[x | z] at the mean of q, (B, *x_shape), for a model with `decode`; takes no gradient."""
    with torch.no_grad():
        return model.decode(posterior_mean(family, params)).mean


def reconstructions(subject: Subject, num: int) -> dict[str, Tensor]:
    """`inputs`, E[x | z] at the means of q at λ₀ and λ_K, and `labels`, of the first `num` datapoints."""
    shown = {"inputs": subject.x[:num]}
    for name, params in (("reconstructions_init", subject.init), ("reconstructions", subject.params)):
        shown[name] = reconstruct(subject.model, subject.family, params[:num])
    return shown if subject.labels is None else {**shown, "labels": subject.labels[:num]}
