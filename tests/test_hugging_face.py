"""Data sets of Hugging Face's `datasets`, made and saved here."""

import sys

import numpy as np
import pytest
import torch

from pyrovae.config import build_data, check
from pyrovae.data import HF, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def pictures(num, size=(9, 7)):
    """Grey pictures; datapoint i has 5 i everywhere."""
    from PIL import Image

    return [Image.fromarray(np.full(size, 5 * i, np.uint8)) for i in range(num)]


def saved(folder, splits, **columns):
    """Columns in a folder, whole or by splits, {train: 30, test: 10} say."""
    features = {"label": datasets.ClassLabel(names=["cat", "dog"])} if "label" in columns else {}
    features["image"] = datasets.Image() if "image" in columns else None
    whole = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        whole = whole.cast_column(name, feature) if feature is not None else whole
    if splits:
        ends = np.cumsum([0, *splits.values()])
        parts = {name: whole.select(range(*ends[i : i + 2])) for i, name in enumerate(splits)}
        whole = datasets.DatasetDict(parts)
    whole.save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("splits", [{}, {"train": 30, "test": 10}, {"train": 20, "validation": 12, "test": 8}])
def test_pictures_labels_and_covariates_of_a_folder(splits, tmp_path):
    labels = [i % 2 for i in range(40)]
    path = saved(tmp_path / "d", splits, image=pictures(40), label=labels, speed=[i / 7 for i in range(40)], text=["t"] * 40)  # fmt: skip
    data, begin = HF(path=path, val_fraction=0.2), dict(zip(splits, np.cumsum([0, *splits.values()]), strict=False))
    assert data.x_shape == (1, 9, 7)
    seen = []
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        x, of = data.take(split)
        tags = (x[:, 0, 0, 0] * 51).round().long()
        assert torch.equal(x, (tags.float() / 51)[:, None, None, None].expand_as(x))
        assert [data.class_names[i] for i in of] == [("cat", "dog")[tag % 2] for tag in tags]
        assert np.allclose(data.covariates[split]["speed"], tags.numpy() / 7)
        assert data.covariates[split].keys() == {"speed"}
        assert (data.origin(split) + begin.get(name, 0)).tolist() == tags.tolist()
        seen += tags.tolist()
    assert sorted(seen) == list(range(40))
    if "validation" in splits:
        assert seen == list(range(40)), "splits of its own are kept"


def test_arrays_by_key_and_pictures_in_colour_of_one_size(tmp_path):
    spikes = np.random.default_rng(0).poisson(3, (30, 6))
    path = saved(tmp_path / "a", {}, spikes=spikes.tolist())
    config = check({"dataset": {"name": "hf", "path": path, "key": "spikes"}, "model": {"likelihood": "poisson"}})
    data = build_data(config)
    x = torch.cat([data.take(split)[0] for split in ("train", "val", "test")])
    rows = torch.cat([data.origin(split) for split in ("train", "val", "test")])
    assert torch.equal(x, torch.from_numpy(spikes)[rows].float())
    assert data.labels == {}
    path = saved(tmp_path / "b", {}, image=[*pictures(20), *pictures(5, (12, 9))])
    with pytest.raises(DataError, match=r"has \(1, 12, 9\) beside \(1, 9, 7\); set dataset.image_size"):
        HF(path=path).take("train")
    assert HF(path=path, image_size=4, color="rgb").take("train")[0].shape == (21, 3, 4, 4)


def test_errors(tmp_path, monkeypatch):
    path = saved(tmp_path / "d", {}, x=[[1.0], [2.0]])
    with pytest.raises(DataError, match=r"has no column image; set dataset.key to one of x$"):
        HF(path=path)
    with pytest.raises(DataError, match=r"has splits dev, and no train"):
        HF(path=saved(tmp_path / "e", {"dev": 2}, x=[[1.0], [2.0]]), key="x")
    with pytest.raises(DataError, match=r"HF: cannot load /nowhere/at/all \(.*\); name a data set or a folder"):
        HF(path="/nowhere/at/all")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"HF: .*; pip install 'pyrovae\[hf\]'"):
        HF(path=path)
