"""Increasing maps of the real line, entry by entry, from unconstrained numbers."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOG = 3.0  # bounds log-scales, log-slopes and the logits of a spline's bins


def _bounded(raw: Tensor) -> Tensor:
    """Smoothly into (-3, 3), and the identity near 0: an extreme number can make nothing overflow."""
    return MAX_LOG * torch.tanh(raw / MAX_LOG)


class Monotone(Protocol):
    """y = f(x; r), increasing in x, and the identity at r = 0."""

    num_raw: int  # K, numbers that shape one entry's map

    def __call__(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """y and log ∂y/∂x, both (..., D), at x (..., D) for raw (..., D, K)."""

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """The x whose image is y."""


class Affine:
    r"""A scale and a shift: :math:`y = e^a x + m`, a within (-3, 3)."""

    num_raw = 2

    def __call__(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._parts(raw)
        return log_scale.exp() * x + shift, log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        log_scale, shift = self._parts(raw)
        return (y - shift) * (-log_scale).exp()

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = raw.unbind(-1)
        return _bounded(log_scale), shift


class Spline:
    """A rational quadratic spline through `num_bins` bins of [-5, 5], and the identity beyond.

    Reference:
        Neural Spline Flows (Durkan et al., 2019), section 3.1, arXiv:1906.04032
    """

    BOUND = 5.0

    def __init__(self, num_bins: int) -> None:
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
        x, y = (
            F.pad(2 * self.BOUND * logits.softmax(-1).cumsum(-1), (1, 0)) - self.BOUND for logits in (widths, heights)
        )
        return x, y, F.pad(slopes, (1, 1)).exp()  # of slope 1 at the ends, where the identity begins

    @staticmethod
    def _bin(value: Tensor, knots: tuple[Tensor, Tensor, Tensor], of: int) -> tuple[Tensor, ...]:
        """Corner, width, height and slopes of the bin that `value` lies in, on axis `of`."""
        index = (value[..., None] >= knots[of][..., 1:-1]).sum(-1, keepdim=True)  # (..., D, 1)

        def pick(row: Tensor, next_to: int) -> Tensor:
            row = row.expand(*index.shape[:-1], row.shape[-1])
            return row.gather(-1, index + next_to)[..., 0]

        (left, right), (bottom, top), slopes = ([pick(row, 0), pick(row, 1)] for row in knots)
        return left, bottom, right - left, top - bottom, *slopes
