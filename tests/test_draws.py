"""Random numbers that are a function of what they are for."""

import pytest
import torch

from pyrovae.data import draws

NUMBERS = torch.tensor([0, 1, 5, 108_753, 2**40])


def test_a_known_sequence():
    # SplitMix64 from state 1234567, as its authors' code gives it.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    words = draws.words(1234567, torch.tensor([0]), 5)[0].tolist()
    assert [word % 2**64 for word in words] == known


def test_a_datapoints_words_do_not_depend_on_its_batch():
    whole = draws.words(7, NUMBERS, 3)
    assert torch.equal(draws.words(7, NUMBERS[2:4], 3), whole[2:4])
    assert not torch.equal(draws.words(8, NUMBERS, 3), whole)
    assert len(whole.unique()) == whole.numel()


def test_numpy_and_torch_agree(monkeypatch):
    pixels = torch.randint(0, 256, (5, 1, 3, 7), dtype=torch.uint8), torch.rand(5, 21)

    def drawn():
        return [draws.words(2**63 + 5, NUMBERS, 6), *(draws.binary(3, NUMBERS, x) for x in pixels)]

    by_numpy = drawn()
    monkeypatch.setattr(draws, "_by_numpy", lambda x: False)
    assert all(torch.equal(a, b) for a, b in zip(by_numpy, drawn(), strict=True))


def test_uniform_numbers_have_uniforms_moments():
    u = draws.uniform(1, torch.arange(1000), 100).double().flatten()
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    for power in (1, 2, 3):
        moments = u**power
        assert abs(moments.mean() - 1 / (power + 1)) < 5 * moments.std() / len(u) ** 0.5
    lags = [torch.corrcoef(torch.stack([u[:-lag], u[lag:]]))[0, 1] for lag in (1, 100)]
    assert max(map(abs, lags)) < 5 / len(u) ** 0.5


@pytest.mark.parametrize("scale", [1, 255])
def test_binary_draws_have_the_grey_value_as_mean(scale):
    grey = torch.tensor([0, 1, 51, 128, 254, 255], dtype=torch.uint8)
    x = grey.repeat(40_000, 1)
    drawn = draws.binary(1, torch.arange(len(x)), x if scale == 255 else x / 255)
    assert drawn.dtype == torch.float32
    expected = grey.double() / 255
    assert ((drawn.double().mean(0) - expected).abs() <= 5 * (expected * (1 - expected) / len(x)).sqrt()).all()
    assert drawn[:, 0].sum() == 0, "black stays black"
    assert drawn[:, -1].sum() == len(x), "white stays white"
