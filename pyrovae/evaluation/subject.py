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


class Words(NamedTuple):
    """What the data's parts are called, and how much is on a datapoint."""

    datapoint: str
    entry: str
    amount: str
    formula: str  # of the amount


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
    >>> subject.params.shape, subject.refines, subject.words.amount
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
        """Turns λ into q."""
        return self.guide.family

    @property
    def refines(self) -> bool:
        """Whether λ_K is another than λ₀."""
        return self.params is not self.init

    def estimate(self, values: Tensor, rows: Any = slice(None)) -> dict[str, float]:
        """`estimate` over the finite ones of values of the datapoints `rows`; errors are over groups, if there are."""
        good = values.isfinite().cpu()
        return estimate(values[good], None if self.groups is None else self.groups.cpu()[rows][good])

    @property
    def words(self) -> Words:
        """Images have ink, or contrast where no background prevails; counts have rates."""
        if self.x.dim() == 4:
            away, (low, high) = (self.x - self.background).abs(), self.x.aminmax()
            amount = "ink" if (away <= 0.05 * (high - low)).double().mean() > 0.5 else "contrast"
            return Words("image", "pixel", amount, "mean |x − median|")
        if (self.x >= 0).all() and (self.x == self.x.round()).all():
            return Words("trial", "neuron", "rate", "mean count")
        return Words("datapoint", "entry", "size", "mean |x − median|")

    @property
    def background(self) -> Tensor:
        """The value that entries have most often or are spread about, paper say: their median."""
        return self.x[self.x.isfinite()].median()

    def amount(self) -> Tensor:
        """How much ink, contrast or rate each datapoint has, (N,)."""
        x = self.x if self.words.amount == "rate" else (self.x - self.background).abs()
        return x.flatten(1).mean(1)


def posterior_draws(family: Family, params: Tensor, num_draws: int) -> Tensor:
    """z ~ q(z | λ) for λ (B, P), flattened sites side by side, (num_draws, B, D); takes no gradient.

    By the family's program: a plug-in distribution, as a `Ladder` has one, would leave out how layers depend.

    >>> import pyrovae as pv
    >>> posterior_draws(pv.DiagonalNormal(2), torch.zeros(5, 4), 3).shape
    torch.Size([3, 5, 2])
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
    model, family = subject.model, subject.family
    return {
        "inputs": subject.x[:num],
        "reconstructions_init": reconstruct(model, family, subject.init[:num]),
        "reconstructions": reconstruct(model, family, subject.params[:num]),
        **({} if subject.labels is None else {"labels": subject.labels[:num]}),
    }
