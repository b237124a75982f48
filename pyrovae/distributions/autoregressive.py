"""One autoregressive transform, as a function of its weights, and the increasing maps it is made of."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..validation import PositiveInt, validated

MAX_LOG = 3.0  # bounds log-scales, log-slopes and the logits of a spline's bins
BLOCK = 16  # entries solved for at once: at D = 50 a score takes 5 ms so, and 13 by the whole Jacobian


def _bounded(raw: Tensor) -> Tensor:
    """Smoothly into (-3, 3), and the identity near 0: an extreme number can make nothing overflow."""
    return MAX_LOG * torch.tanh(raw / MAX_LOG)


class Affine:
    r"""A scale and a shift: :math:`y = e^a x + m`, a within (-3, 3); the identity at raw = 0, as `Spline`.

    >>> Affine()(torch.tensor([1.0]), torch.tensor([[0.0, 2.0]]))
    (tensor([3.]), tensor([0.]))
    """

    num_raw = 2  # K, numbers that shape one entry's map

    def __call__(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """y and log ∂y/∂x, both (..., D), at x (..., D) for raw (..., D, K)."""
        log_scale = _bounded(raw[..., 0])
        return log_scale.exp() * x + raw[..., 1], log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """The x whose image is y."""
        return (y - raw[..., 1]) * (-_bounded(raw[..., 0])).exp()


class Spline:
    """A rational quadratic spline through `num_bins` bins of [-5, 5], and the identity beyond.

    Reference:
        Neural Spline Flows (Durkan et al., 2019), section 3.1, arXiv:1906.04032

    >>> spline, x, raw = Spline(8), torch.linspace(-6, 6, 5), torch.randn(5, 23)
    >>> torch.allclose(spline.inverse(spline(x, raw)[0], raw), x, atol=1e-4)
    True
    """

    BOUND = 5.0

    @validated
    def __init__(self, num_bins: PositiveInt) -> None:
        self.num_bins = num_bins
        self.num_raw = 3 * num_bins - 1  # widths, heights, slopes at the knots within

    def __call__(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        knots = self._knots(raw)
        inside = x.clamp(-self.BOUND, self.BOUND)  # beyond, what is computed is finite and not used
        left, bottom, width, height, slope, next_slope = self._bin(inside, knots, of=0)
        chord = height / width
        t = (inside - left) / width
        u = t * (1 - t)
        below = chord + (slope + next_slope - 2 * chord) * u
        y = bottom + height * (chord * t.square() + slope * u) / below
        above = next_slope * t.square() + 2 * chord * u + slope * (1 - t).square()
        log_slope = 2 * chord.log() + above.log() - 2 * below.log()
        within = x.abs() < self.BOUND
        return torch.where(within, y, x), torch.where(within, log_slope, 0.0)

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        knots = self._knots(raw)
        inside = y.clamp(-self.BOUND, self.BOUND)
        left, bottom, width, height, slope, next_slope = self._bin(inside, knots, of=1)
        chord, rise = height / width, inside - bottom
        bend = rise * (slope + next_slope - 2 * chord)
        a, b, c = height * (chord - slope) + bend, height * slope - bend, -chord * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())  # the root that does not cancel
        return torch.where(y.abs() < self.BOUND, left + t * width, y)

    def _knots(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where knots lie on both axes, and the slopes there, (..., D, num_bins + 1) each."""
        widths, heights, slopes = _bounded(raw).split([self.num_bins, self.num_bins, self.num_bins - 1], -1)
        x, y = (F.pad(2 * self.BOUND * raw.softmax(-1).cumsum(-1), (1, 0)) - self.BOUND for raw in (widths, heights))
        return x, y, F.pad(slopes, (1, 1)).exp()  # of slope 1 at the ends, where the identity begins

    @staticmethod
    def _bin(value: Tensor, knots: tuple[Tensor, Tensor, Tensor], of: int) -> tuple[Tensor, ...]:
        """Corner, width, height and slopes of the bin that `value` lies in, on axis `of`."""
        index = (value[..., None] >= knots[of][..., 1:-1]).sum(-1, keepdim=True)  # (..., D, 1)

        def pick(row: Tensor, next_to: int) -> Tensor:
            return row.expand(*index.shape[:-1], row.shape[-1]).gather(-1, index + next_to)[..., 0]

        (left, right), (bottom, top), slopes = ([pick(row, 0), pick(row, 1)] for row in knots)
        return left, bottom, right - left, top - bottom, *slopes


Monotone = Affine | Spline  # y = f(x; r), increasing in x


@dataclass(frozen=True)
class Autoregressive:
    r"""x ↦ y in one pass; entry i is moved by an increasing map that the entries before it shape.

    .. math:: y_i = f(x_i; r_i(x_1, \ldots, x_{i-1}))

    r is a masked network. This is data: what a network (`nets.MADE`) and a context make of each other, for one batch.
    The Jacobian J = ∂y/∂x is lower triangular, so its determinant is a product; the way back takes D passes.

    Reference:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), arXiv:1502.03509

    >>> import pyrovae as pv
    >>> transform = pv.nets.made.MADE(3, 2, Affine(), (16,))(torch.ones(4, 2))
    >>> [result.shape for result in transform(torch.randn(4, 3))]
    [torch.Size([4, 3]), torch.Size([4])]
    """

    monotone: Monotone  # f
    layers: tuple[tuple[Tensor, Tensor], ...]  # masked weight (H, H') and bias (..., H) of each hidden layer
    head: Tensor  # masked weight of the output layer (D, K, H)
    gate: Tensor  # factors of the last hidden layer (..., H)
    degrees: tuple[
        tuple[int, ...], ...
    ]  # ascending; a unit of degree m reads the first m entries and serves later ones

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (..., D) and log det J (...)."""
        y, log_slope = self.monotone(x, self._raw(self._hidden(x)[-1]))
        return y, log_slope.sum(-1)

    def inverse(self, y: Tensor) -> Tensor:
        """The x whose image is y, by D passes, each of which settles an entry; gradients by the implicit function."""
        with torch.no_grad():
            x = y
            for _ in range(y.shape[-1]):
                x = self.monotone.inverse(y, self._raw(self._hidden(x)[-1]))
        residual = self(x)[0] - y  # zero, and moves with y and the weights
        if not residual.requires_grad:
            return x
        residual.register_hook(lambda grad: self.pull_back(x, grad))
        return x - (residual - residual.detach())

    def detach(self) -> "Autoregressive":
        """The same transform with weights that take no gradient."""
        layers = tuple((weight.detach(), bias.detach()) for weight, bias in self.layers)
        return replace(self, layers=layers, head=self.head.detach(), gate=self.gate.detach())

    def push_score(self, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """y, and ∇ log q(y) from ∇ log q(x), (..., D) each, as constants."""
        with torch.no_grad():
            hidden, (x, raw, y, log_slope), by_raw = self._near(x)
            ones = torch.ones_like(log_slope)
            direct, shape = torch.autograd.grad(log_slope, (x, raw), ones, allow_unused=True, materialize_grads=True)
            by_log_det = direct + self._to_inputs(shape.flatten(-2) @ self.head.flatten(0, 1), hidden)
            return y.detach(), self._solve(score - by_log_det, hidden, by_raw, log_slope.detach().exp())

    def pull_back(self, x: Tensor, grad: Tensor) -> Tensor:
        r""":math:`J^{-\top} g` at x for g = `grad` (..., D), a constant."""
        with torch.no_grad():
            hidden, (*_, log_slope), by_raw = self._near(x)
            return self._solve(grad, hidden, by_raw, log_slope.detach().exp())

    def _near(self, x: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...], Tensor]:
        """The layers at x; x and r as leaves, y and log ∂y/∂x as f makes them of those; ∂y/∂r (..., D, K)."""
        hidden = self._hidden(x)
        raw = self._raw(hidden[-1])
        with torch.enable_grad():
            x, raw = x.detach().requires_grad_(), raw.detach().requires_grad_()
            y, log_slope = self.monotone(x, raw)
            (by_raw,) = torch.autograd.grad(y.sum(), raw, retain_graph=True)
        return hidden, (x, raw, y, log_slope), by_raw

    def _solve(self, grad: Tensor, hidden: list[Tensor], by_raw: Tensor, slope: Tensor) -> Tensor:
        r""":math:`J^{-\top} g`, with ∂y/∂r (..., D, K), and ∂y/∂x at fixed r (..., D).

        By substitution, from the last block of entries to the first; few units lie between the entries of a block.
        """
        dim, solved = grad.shape[-1], list[Tensor]()
        sent = torch.zeros_like(hidden[-1])  # gradient that later entries send to the last hidden layer
        for start in reversed(range(0, dim, BLOCK)):
            block = slice(start, min(start + BLOCK, dim))
            rest = grad[..., block] - self._to_inputs(sent, hidden)[..., block]
            jacobian = self._jacobian(block, hidden, by_raw) + torch.diag_embed(slope[..., block])
            entries = torch.linalg.solve_triangular(jacobian.mT, rest[..., None], upper=True)  # (..., b, 1)
            sent = sent + (entries * by_raw[..., block, :]).flatten(-2) @ self.head[block].flatten(0, 1)
            solved.insert(0, entries[..., 0])
        return torch.cat(solved, -1)

    def _hidden(self, x: Tensor) -> list[Tensor]:
        """x and every hidden layer, (..., H)."""
        hidden = [x]
        for weight, bias in self.layers:
            hidden.append(F.elu(F.linear(hidden[-1], weight) + bias))
        return hidden

    def _raw(self, h: Tensor) -> Tensor:
        return F.linear(self.gate * h, self.head.flatten(0, 1)).unflatten(-1, self.head.shape[:2])  # (..., D, K)

    def _to_inputs(self, grad: Tensor, hidden: list[Tensor]) -> Tensor:
        """From a gradient at the gated last hidden layer to one at x."""
        grad = grad * self.gate
        for (weight, _), h in zip(self.layers[::-1], hidden[:0:-1], strict=True):
            grad = (grad * _elu_slope(h)) @ weight
        return grad

    def _jacobian(self, block: slice, hidden: list[Tensor], by_raw: Tensor) -> Tensor:
        """∂y/∂x, by way of r, among the entries of a block, (..., b, b)."""
        # The units that read an entry of the block and serve a later one of it.
        ends = ((bisect_left(m, block.start + 1), bisect_left(m, block.stop)) for m in self.degrees)
        units = [block, *(slice(*pair) for pair in ends)]
        head = self.head[block][..., units[-1]]  # (b, K, h)
        rows = torch.einsum("...ik,ikh->...ih", by_raw[..., block, :], head) * self.gate[..., None, units[-1]]
        for layer in reversed(range(len(self.layers))):
            weight, h = self.layers[layer][0], hidden[layer + 1]
            rows = (rows * _elu_slope(h)[..., None, units[layer + 1]]) @ weight[units[layer + 1], units[layer]]
        return rows


def _elu_slope(h: Tensor) -> Tensor:
    """The derivative of ELU where its value is h."""
    return h.clamp(max=0) + 1
