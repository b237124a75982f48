"""What normalizations make of training data, and that they learn from nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrovae.config import ConfigError, build_data, check
from pyrovae.data import (
    NORMALIZATIONS,
    ZCA,
    Centering,
    ContrastNormalization,
    DataError,
    Dataset,
    Held,
    Mapped,
    Normalization,
    Scaled,
    Standardization,
)
from pyrovae.data.normalization import as_floats, as_in

X_SHAPE = (1, 3, 4)


def correlated(num: int, seed: int = 0, rank: int = 12) -> Tensor:
    """Rows (num, 1, 3, 4) of mean 5, of unlike variances and correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, rank, generator=generator) * torch.logspace(0, -1, rank)
    return (torch.randn(num, rank, generator=generator) @ mixing.T + 5).view(-1, *X_SHAPE)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rows = correlated(1400)
    return Dataset("toy", "toy", rows[:1200], rows[1200:1300], rows[1300:])


def covariance(x: Tensor) -> Tensor:
    return torch.cov(x.flatten(1).double().T, correction=0)


def x_of(data: Dataset, normalization: Normalization, split: str = "train") -> Tensor:
    return data.normalized(normalization).take(split)[0]


def matrix_of(data: Dataset, normalization: Normalization) -> Tensor:
    return data.normalized(normalization).preprocess.normalization.matrix


def test_whitened_training_data_have_the_identity_as_covariance(data):
    x = x_of(data, ZCA(epsilon=0))
    torch.testing.assert_close(covariance(x), torch.eye(12).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(X_SHAPE), atol=1e-4, rtol=0)
    assert (covariance(data.train) - torch.eye(12)).abs().max() > 1, "without whitening this would fail"


@pytest.mark.parametrize("epsilon", [0.01, 1.0])
def test_epsilon_leaves_each_direction_its_closed_form_variance(data, epsilon):
    values, vectors = torch.linalg.eigh(covariance(data.train))
    left = vectors.T @ covariance(x_of(data, ZCA(epsilon=epsilon))) @ vectors
    expected = torch.diag(values / (values + epsilon * values.mean()))
    torch.testing.assert_close(left, expected, atol=1e-4, rtol=0)


def test_whitening_is_symmetric_and_turns_nothing(data):
    matrix = matrix_of(data, ZCA(epsilon=0))
    assert torch.equal(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix.double()).min() > 0


def test_directions_that_never_vary_become_zero():
    rows = correlated(600, rank=5)
    data = Dataset("toy", "toy", rows[:500], rows[500:550], rows[550:])
    left = torch.linalg.eigvalsh(covariance(x_of(data, ZCA(epsilon=0))))
    torch.testing.assert_close(left, torch.cat([torch.zeros(7), torch.ones(5)]).double(), atol=1e-3, rtol=0)


def test_centred_and_standardized(data):
    flat = data.train.flatten(1)
    centred = x_of(data, Centering()).flatten(1)
    torch.testing.assert_close(centred, flat - flat.mean(0), atol=1e-5, rtol=0)
    shared, each = (x_of(data, Standardization(each_entry=on)).flatten(1) for on in (False, True))
    assert shared.var(0, correction=0).mean().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(shared / shared[0, 0], centred / centred[0, 0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(each.var(0, correction=0), torch.ones(12), atol=1e-4, rtol=0)


def test_contrast_is_of_each_datapoint_by_itself(data):
    x = data.train.flatten(1)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 0.3).sqrt()
    torch.testing.assert_close(x_of(data, ContrastNormalization(epsilon=0.3)).flatten(1), expected)
    twice = data.normalized(ContrastNormalization()).normalized(Centering())
    torch.testing.assert_close(twice.take("train")[0].mean(0), torch.zeros(X_SHAPE), atol=1e-5, rtol=0)
    assert twice.source == "toy, normalize contrast, normalize center"


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS.keys() - {"contrast"}))
def test_only_the_training_split_is_learned_from(data, name):
    make = NORMALIZATIONS[name]
    before = x_of(data, make())
    others = replace(data, val=correlated(50, seed=1) * 9, test=correlated(70, seed=2) - 40)
    assert torch.equal(x_of(others, make()), before)
    assert not torch.equal(x_of(replace(data, train=data.train[:600]), make())[:600], before[:600])
    augmented = replace(data, augment=lambda raw, key, numbers: raw + 100)
    assert torch.equal(x_of(augmented, make()), before)
    given = make()
    data.normalized(given)
    assert all(torch.equal(a, b) for a, b in zip(given.buffers(), make().buffers(), strict=True)), "what was given"


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_x_is_the_same_to_the_bit_again_elsewhere_and_by_other_threads(data, name, tmp_path):
    make = NORMALIZATIONS[name]
    before = x_of(data, make())
    np.save(tmp_path / "rows.npy", data.train.numpy())
    mapped = replace(data, train=Mapped(np.load(tmp_path / "rows.npy", mmap_mode="r")))
    assert torch.equal(x_of(mapped, make()), before)
    torch.set_num_threads(2)
    try:
        fitted = data.normalized(make())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(fitted.take("train")[0], before)


def test_batches_are_normalized_whatever_their_size(data):
    whole = data.normalized(ZCA())
    for split in ("train", "val"):
        x = torch.cat(list(whole.in_order(split, 7)))
        torch.testing.assert_close(x, whole.take(split)[0], atol=1e-4, rtol=1e-5)  # BLAS sums as sizes are
    assert len(whole.preprocess._copies) == 1, "the matrix is moved once, not with every batch"


def test_eight_bits_are_brought_to_one_first():
    pixels = torch.randint(0, 256, (200, 1, 2, 2), dtype=torch.uint8)
    data = Dataset("toy", "toy", pixels, pixels[:9], pixels[:9])
    assert x_of(data, Centering()).max() <= 1
    assert data.normalized(Centering()).train.dtype == torch.uint8  # so that images can still be rotated


def test_of_very_many_datapoints_every_so_many_are_taken(data, monkeypatch):
    monkeypatch.setattr("pyrovae.data.normalization._MOST", 500)  # of 1200: every third
    mean = data.normalized(Centering()).preprocess.normalization.mean
    torch.testing.assert_close(mean, data.train[::3].mean(0), atol=1e-5, rtol=0)
    assert not torch.allclose(mean, data.train.mean(0), atol=1e-4)


def test_what_cannot_be_normalized_is_refused(data, monkeypatch):
    grey = torch.randint(0, 256, (20, *X_SHAPE), dtype=torch.uint8)
    binary = Dataset("toy", "toy", grey, grey, grey, "dynamic")
    with pytest.raises(
        DataError, match=r"dataset toy: normalize zca is .* binarize is dynamic; set dataset.binarize: n"
    ):
        binary.normalized(ZCA())
    with pytest.raises(DataError, match="epsilon must be >= 0, got -1"):
        ZCA(epsilon=-1)
    monkeypatch.setattr("pyrovae.data.normalization._WIDEST", 11)
    with pytest.raises(DataError, match="a datapoint has 12 entries, and whitening takes 11 at most; use standardize"):
        data.normalized(ZCA())


def test_a_key_of_every_data_set():
    def block(name: str, normalize: object) -> object:
        return check({"dataset": {"name": name, "normalize": normalize}}).dataset.normalize

    assert block("mnist", "none") is block("sun397", None) is None
    assert block("natural_patches", "zca").model_dump() == {"type": "zca", "epsilon": 0.01}
    assert block("mnist", {"type": "standardize", "each_entry": True}).each_entry
    with pytest.raises(ConfigError, match="dataset.normalize.type: 'zc' is unknown; did you mean zca?"):
        block("mnist", "zc")


def test_built_from_a_configuration():
    few = {"name": "natural_patches", "num_train": 400, "num_val": 50, "num_test": 50}
    plain, built = (
        build_data(check({"dataset": {**few, "normalize": how}, "model": {"likelihood": "normal"}}))
        for how in ("none", "center")
    )
    expected = plain.take("test")[0] - plain.take("train")[0].mean(0)
    torch.testing.assert_close(built.take("test")[0], expected, atol=1e-5, rtol=0)
    assert built.source == f"{plain.source}, normalize center"


def test_data_from_elsewhere_are_normalized_as_those_of_training():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    data, other = (Dataset("tiny", "random", raw[:200], raw[200:250], raw[250:]) for raw in (x, 10 * x + 100))
    data, own = data.normalized(Standardization()), other.normalized(Standardization())
    assert torch.allclose(own.take("test")[0], data.take("test")[0], atol=1e-4), "its own statistics hide the shift"
    mean, sd = x[:200].mean(0), (x[:200] - x[:200].mean(0)).square().mean().sqrt()
    for found in (as_in(data, own), as_in(data, other)):
        torch.testing.assert_close(found.take("test")[0], (10 * x[250:] + 100 - mean) / sd)
    twice = data.normalized(ZCA())
    assert torch.equal(as_in(twice, data).take("test")[0], twice.take("test")[0])


def test_fitting_takes_memory_for_some_megabytes(monkeypatch):
    sizes = []
    read = Held.read
    monkeypatch.setattr(Held, "read", lambda self, numbers, epoch=0: sizes.append(len(numbers)) or read(self, numbers))
    raw = torch.zeros(40, 3, 200, 200, dtype=torch.uint8)
    raw[7] = 1
    Dataset("tiny", "black", raw, raw[:1], raw[:1]).normalized(Centering())
    assert max(sizes[:-1]) == 1  # the last is a look at what came out


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_data_that_never_vary_are_refused(name):
    x = torch.full((30, 4), 3.0)
    with pytest.raises(DataError, match=f"normalize {name} leaves nothing of data that never vary; leave it out"):
        Dataset("flat", "all threes", x, x, x).normalized(NORMALIZATIONS[name]())


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize(("dtype", "offset"), [(torch.float64, 3e9), (torch.int64, 2**40)])
def test_a_large_offset_hides_nothing(name, dtype, offset):
    spread = 1000 * torch.randn(400, 4, generator=torch.Generator().manual_seed(0)).double()
    raw = (spread.round() + offset).to(dtype)
    how = {"epsilon": 0.0} if name in ("zca", "contrast") else {}
    found, expected = (
        x_of(Dataset("toy", "toy", x[:300], x[300:350], x[350:], preprocess=preprocess), NORMALIZATIONS[name](**how))
        for x, preprocess in ((raw, as_floats), (spread.round().float(), Scaled(1.0)))
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_timestamps_of_a_file_are_standardized(tmp_path):
    times = 1.7e9 + np.arange(200.0)[:, None] * np.array([1.0, 2.0])
    np.save(tmp_path / "x.npy", times)
    values = {"dataset": {"name": "arrays", "path": str(tmp_path / "x.npy"), "normalize": "standardize"}}
    data = build_data(check({**values, "model": {"likelihood": "normal"}}))
    x = data.take("train")[0]
    assert x.var(0, correction=0).mean().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(2 * x[:, 0], x[:, 1], atol=1e-4, rtol=1e-4)
