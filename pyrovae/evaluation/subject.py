"""What is measured, datapoints and their posteriors; and what a measure gives back."""

import logging
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..capture import isolated
from ..families import Family
from ..guides import Guide

CHUNK_SIZE = 500  # datapoints inferred at a time
NO_DECODE = "left out, for the model has no `decode`; write one, z to p(x | z)"
NUM_MEAN_DRAWS = 64  # where a family's mean has no closed form
_log = logging.getLogger(__name__)


def estimate(values: Tensor, groups: Tensor | None = None) -> dict[str, float]:
    r"""Mean and standard error of per-datapoint values (N,); `se` is NaN where there is one group alone.

    Datapoints of one group, patches of one photograph, are not independent; with group numbers (N,) the error is

    .. math:: \mathrm{se}^2 = \frac{G}{G - 1} \sum_{g=1}^G \Big( \frac1N \sum_{i \in g} (v_i - \bar v) \Big)^2

    which for groups of one is the usual one (Liang & Zeger 1986, Biometrika 73(1)).

    >>> estimate(torch.tensor([1.0, 3.0]))
    {'mean': 2.0, 'se': 1.0}
    >>> estimate(torch.tensor([1.0, 1.0, 3.0, 3.0]), groups=torch.tensor([7, 7, 8, 8]))
    {'mean': 2.0, 'se': 1.0}
    """
    values = values.detach().double().cpu()
    mean, sums = values.mean(), values - values.mean()
    if groups is not None:
        numbers, places = groups.cpu().unique(return_inverse=True)
        sums = sums.new_zeros(len(numbers)).index_add(0, places, sums)
    n = len(sums)
    error = math.sqrt(n / (n - 1) * sums.square().sum().item()) / len(values) if n > 1 else math.nan
    return {"mean": mean.item(), "se": error}


@contextmanager
def attempt(failed: dict[str, str], name: str) -> Iterator[None]:
    """Inside, an exception ends the block and is noted in `failed`; that memory has run out is raised.

    >>> failed = {}
    >>> with attempt(failed, "half"):
    ...     1 / 0
    >>> failed
    {'half': 'ZeroDivisionError: division by zero'}
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        failed[name] = f"{type(error).__name__}: {reason}".removesuffix(": ")
        _log.debug("%s failed\n%s", name, traceback.format_exc())


@dataclass
class Measurement:
    """What a measure found."""

    numbers: dict[str, Any] = field(default_factory=dict)  # for evaluation.json, nested; means are `estimate`s
    values: dict[str, Tensor] = field(default_factory=dict)  # for evaluation.npz: per datapoint, (N, ...)
    figures: dict[str, Figure] = field(default_factory=dict)  # by file name without suffix
    warnings: list[str] = field(default_factory=list)  # what is not to be trusted, and what to do
    failed: dict[str, str] = field(default_factory=dict)  # why what is missing failed, by measure or figure

    def draw(self, name: str, drawing: Callable[..., Figure | None], *args: Any) -> None:
        """Adds the figure that `drawing(*args)` gives, if it gives one; a figure that fails takes nothing down."""
        with attempt(self.failed, f"figure {name}"):
            if (figure := drawing(*args)) is not None:
                self.figures[name] = figure

    def warn_of(self, which: Tensor, text: str) -> None:
        """Warns of datapoints, if it is true (N,) of any: `3 of 20` and the text."""
        if which.any():
            self.warnings.append(f"{int(which.sum())} of {len(which)} {text}")


class Amount(NamedTuple):
    """How much is on each datapoint, and the words for such data."""

    values: Tensor  # (N,)
    name: str
    formula: str
    datapoint: str
    entry: str


@dataclass(frozen=True)
class Subject:
    """A model, a guide, some datapoints, and what the guide found for them.

    >>> import pyrovae as pv
    >>> guide = pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((6,), (4,)))
    >>> subject = Subject.of("test", pv.models.mlp((6,), z_dim=2), guide, torch.ones(8, 6))
    >>> subject.params.shape, subject.refines, subject.amount().name
    (torch.Size([8, 4]), False, 'rate')
    """

    name: str  # of the split, or of data from elsewhere
    model: Any  # p(x, z)
    guide: Guide  # q(z | x)
    x: Tensor  # (N, *x_shape)
    init: Tensor  # λ₀ (N, P)
    params: Tensor  # λ_K (N, P); of a guide that does not refine, `init` itself
    labels: Tensor | None = None  # class numbers (N,)
    class_names: tuple[str, ...] = ()
    groups: Tensor | None = None  # of datapoints that are not independent: say the photograph of each patch (N,)

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
    """z ~ q(z | λ) for λ (B, P), flattened sites side by side, (num_draws, B, D); takes no gradient."""
    # By the family's program: a plug-in distribution, as a `Ladder` has one, would leave out how layers depend.
    with torch.no_grad(), isolated(), pyro.validation_enabled(False), pyro.plate("draws", num_draws, dim=-2):
        return family.sample(params)


@torch.no_grad()
def posterior_mean(family: Family, params: Tensor) -> Tensor:
    """E_q[z] for λ (B, P), (B, D); of a few draws where there is no closed form. Takes no gradient."""
    try:
        return family(params).mean
    except NotImplementedError:
        return posterior_draws(family, params, NUM_MEAN_DRAWS).mean(0)


@torch.no_grad()
def reconstruct(model: Any, family: Family, params: Tensor) -> Tensor:
    """E[x | z] at the mean of q, (B, *x_shape), for a model with `decode`; takes no gradient."""
    return model.decode(posterior_mean(family, params)).mean


def reconstructions(subject: Subject, num: int) -> dict[str, Tensor]:
    """`inputs`, E[x | z] at the means of q at λ₀ and λ_K, and `labels`, of the first `num` datapoints."""
    shown = {"inputs": subject.x[:num]}
    for name, params in (("reconstructions_init", subject.init), ("reconstructions", subject.params)):
        shown[name] = reconstruct(subject.model, subject.family, params[:num])
    return shown if subject.labels is None else {**shown, "labels": subject.labels[:num]}


def panels(width: float, height: float, num: int = 1) -> tuple[Figure, Any]:
    """A figure and its axes, `num` side by side with a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    found = figure.subplots(1, num, squeeze=False)[0]
    for axes in found:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure, found
