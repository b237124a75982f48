"""One autoregressive transform, as a function of its weights."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .monotone import Monotone

BLOCK = 16  # entries solved for at once: at D = 50 a score takes 5 ms so, and 13 by the whole Jacobian


@dataclass(frozen=True)
class Autoregressive:
    r"""x ↦ y in one pass; entry i is moved by an increasing map that the entries before it shape.

    .. math:: y_i = f(x_i; r_i(x_1, \ldots, x_{i-1}))

    r is a masked network. This is data: what a network (`nets.MADE`) and a context make of each other, for one batch.
    The Jacobian J = ∂y/∂x is lower triangular, so its determinant is a product; the way back takes D passes.

    Args:
        monotone: f.
        layers: Masked weight (H, H') and bias (..., H) of each hidden layer.
        head: Masked weight of the output layer (D, K, H).
        gate: Factors of the last hidden layer (..., H).
        degrees: Of each layer's units, ascending: unit of degree m reads the first m entries, and serves later ones.

    Reference:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), arXiv:1502.03509
    """

    monotone: Monotone
    layers: tuple[tuple[Tensor, Tensor], ...]
    head: Tensor
    gate: Tensor
    degrees: tuple[tuple[int, ...], ...]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (..., D) and log det J (...)."""
        y, log_slope = self.monotone(x, self._raw(self._hidden(x)[-1]))
        return y, log_slope.sum(-1)

    def inverse(self, y: Tensor) -> Tensor:
        """The x whose image is y, by D passes: after i of them the first i entries are right.

        Gradients come by the implicit function theorem, not through the passes.
        """
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
            hidden = self._hidden(x)
            raw = self._raw(hidden[-1])
            with torch.enable_grad():
                x, raw = x.detach().requires_grad_(), raw.detach().requires_grad_()
                y, log_slope = self.monotone(x, raw)
                (by_raw,) = torch.autograd.grad(y.sum(), raw, retain_graph=True)
                direct, shape = torch.autograd.grad(
                    log_slope.sum(), (x, raw), allow_unused=True, materialize_grads=True
                )
            sent = shape.flatten(-2) @ self.head.flatten(0, 1)
            by_log_det = direct + self._to_inputs(sent, hidden)
            return y.detach(), self._solve(score - by_log_det, hidden, by_raw, log_slope.detach().exp())

    def pull_back(self, x: Tensor, grad: Tensor) -> Tensor:
        r""":math:`J^{-\top} g` at x for g = `grad` (..., D), a constant."""
        with torch.no_grad():
            hidden = self._hidden(x)
            raw = self._raw(hidden[-1])
            with torch.enable_grad():
                raw = raw.detach().requires_grad_()
                y, log_slope = self.monotone(x.detach(), raw)
                (by_raw,) = torch.autograd.grad(y.sum(), raw)
            return self._solve(grad, hidden, by_raw, log_slope.detach().exp())

    def _solve(self, grad: Tensor, hidden: list[Tensor], by_raw: Tensor, slope: Tensor) -> Tensor:
        r""":math:`J^{-\top} g`, with ∂y/∂r (..., D, K), and ∂y/∂x at fixed r (..., D).

        By substitution from the last block of entries to the first. Only the units that lie between the entries of a
        block enter its own part of the Jacobian, which keeps that part small.
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
        units = [block, *(_between(block, degrees) for degrees in self.degrees)]
        head = self.head[block][..., units[-1]]  # (b, K, h)
        rows = torch.einsum("...ik,ikh->...ih", by_raw[..., block, :], head) * self.gate[..., None, units[-1]]
        for layer in reversed(range(len(self.layers))):
            weight, h = self.layers[layer][0], hidden[layer + 1]
            rows = (rows * _elu_slope(h)[..., None, units[layer + 1]]) @ weight[units[layer + 1], units[layer]]
        return rows


def _elu_slope(h: Tensor) -> Tensor:
    """The derivative of ELU where its value is h."""
    return h.clamp(max=0) + 1


def _between(block: slice, degrees: tuple[int, ...]) -> slice:
    """The units that read an entry of a block and serve a later one of it."""
    return slice(bisect_left(degrees, block.start + 1), bisect_left(degrees, block.stop))
