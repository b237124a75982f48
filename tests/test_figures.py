"""Grey scales of pictures."""

import numpy as np
import pytest
import torch

from pyrovae.training.figures import grey_range, image_grid, image_rows, to_unit


def shown(figure: object, row: int = 0) -> np.ndarray:
    return figure.axes[row].images[0].get_array()


def test_values_between_zero_and_one_are_drawn_as_they_are():
    x = torch.linspace(0, 1, 2 * 48).view(2, 3, 4, 4)
    figure = image_rows({"input": x, "at λ₀": 1.3 * x - 0.1})
    np.testing.assert_allclose(shown(figure)[1:5, 1:5], x[0].permute(1, 2, 0), atol=1e-6)  # channels stay in order
    np.testing.assert_allclose(shown(figure, 1)[1:5, 6:10], (1.3 * x[1] - 0.1).clamp(0, 1).permute(1, 2, 0), atol=1e-6)
    assert figure.get_supxlabel() == ""
    assert grey_range(x - 0.02) == (0, 1), "what a decoder undershoots is black"


def test_values_on_both_sides_of_zero_are_drawn_about_mid_grey_alike_in_all_rows():
    x = 3 * torch.randn(12, 1, 8, 8)
    figure = image_rows({"input": x, "at λ₀": 0 * x, "at λ_K": 9 * x})
    low, high = grey_range(x)
    assert low == -high
    assert high == pytest.approx(3 * 2.58, rel=0.1)  # 99 of 100 entries of a normal
    np.testing.assert_allclose(shown(figure, 1)[1:9, 1:9], 0.5)
    np.testing.assert_allclose(shown(figure)[1:9, 1:9, 0], ((x[0, 0] - low) / (high - low)).clamp(0, 1), atol=1e-6)
    assert figure.get_supxlabel() == f"black {low:.2g}, white {high:.2g}"
    samples = image_grid(torch.zeros(4, 1, 8, 8), 2, like=x)
    np.testing.assert_allclose(shown(samples)[1:9, 1:9], 0.5)
    assert samples.get_supxlabel() == figure.get_supxlabel()


def test_counts_are_drawn_from_black():
    low, high = grey_range(torch.arange(100.0).view(1, 1, 10, 10))
    assert low == 0
    assert high == pytest.approx(98, abs=0.1)
    assert to_unit(torch.tensor([-1.0, 0.0, 98.01, 500.0]), (low, high)).tolist() == pytest.approx([0, 0, 1, 1])
