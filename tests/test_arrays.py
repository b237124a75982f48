"""Arrays of one's own: formats, names, labels, and what is refused."""

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae.cli import evaluate, sample, train
from pyrovae.config import build_data, check
from pyrovae.data import Arrays, DataError, Dataset
from pyrovae.data.arrays import HDF5Array
from pyrovae.training import check_support

ROOT = Path(__file__).parent.parent
FORMATS = ("npy", "npz", "npz compressed", "h5", "h5 compressed")


def write(folder, kind, **arrays):
    """A file of that kind; a .npy takes the first array."""
    suffix, _, compressed = kind.partition(" ")
    path = folder / f"file.{suffix}"
    if suffix == "npy":
        np.save(path, next(iter(arrays.values())))
    elif suffix == "npz":
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                options = {"compression": "gzip", "chunks": (3, *values.shape[1:])} if compressed else {}
                file.create_dataset(name, data=values, **options)
    return str(path)


def tagged(num=40, shape=(3,), dtype=np.float32):
    """Datapoint i has i everywhere."""
    return np.broadcast_to(np.arange(num, dtype=dtype).reshape(-1, *[1] * len(shape)), (num, *shape)).copy()


def tags(data: Dataset, split):
    return data.take(split)[0].flatten(1)[:, 0].round().long().tolist()


def stored(data: Dataset):
    """The array under the rows of the training split."""
    rows = data.rows("train")
    while hasattr(rows, "rows"):
        rows = rows.rows
    return rows.array


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_give_the_same_data_set(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))
    data = Arrays(path=write(tmp_path, kind, x=tagged()), seed=3)
    expected = Arrays(path=write(tmp_path, "npy", x=tagged()), seed=3)
    assert [len(data.rows(s)) for s in ("train", "val", "test")] == [32, 4, 4]
    assert sorted(tags(data, "train") + tags(data, "val") + tags(data, "test")) == list(range(40))
    for split in ("train", "val", "test"):
        assert torch.equal(data.take(split)[0], expected.take(split)[0])
    assert not torch.equal(Arrays(path=str(tmp_path / "file.npy"), seed=4).take("val")[0], data.take("val")[0])
    if kind == "h5 compressed":
        assert isinstance(stored(data), HDF5Array)
    else:
        assert isinstance(stored(data), np.memmap) == (kind != "npz compressed")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f8", "<f2", ">i2", "u2", "i8", "?"])
def test_any_real_type_and_order_becomes_float32(dtype, order, tmp_path):
    values = np.asarray(tagged().astype(dtype), order=order)
    data = Arrays(path=write(tmp_path, "npy", x=values))
    x = torch.cat([data.take(split)[0] for split in ("train", "val", "test")])
    assert x.dtype == torch.float32
    assert sorted(x[:, 1].tolist()) == sorted(values[:, 1].astype(float).tolist())


def test_rows_of_chunks_come_in_any_order_from_any_thread_and_process(tmp_path):
    path = write(tmp_path, "h5 compressed", x=tagged())
    array = stored(Arrays(path=path))
    for numbers in ([7, 3, 3, 39, 0], [5, 4, 3], [], [2]):
        assert array[np.array(numbers, int)][:, 0].tolist() == numbers
        assert pickle.loads(pickle.dumps(array))[np.array(numbers, int)][:, 0].tolist() == numbers
    one, many = (Arrays(path=path, num_workers=n) for n in (0, 3))
    for a, b in zip(one.batches("train", 5), many.batches("train", 5), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("width", "num_bytes"), [(1_000, 3 * 2**20), (9_000, 22 * 2**20)])
def test_a_row_of_chunks_fits_into_the_cache_of_chunks(width, num_bytes, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2_000, width), np.float32, chunks=(700, 600), compression="gzip")
    array = stored(Arrays(path=str(tmp_path / "a.h5")))
    array[:1]
    assert array._opened[1].id.get_access_plist().get_chunk_cache()[1] >= num_bytes


def test_an_hdf5_file_with_a_user_block_is_mapped_where_its_values_are(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["trials/spikes"] = tagged()
        file["never_written"] = h5py.Empty("f4")
    data = Arrays(path=str(tmp_path / "a.h5"))
    assert isinstance(stored(data), np.memmap)
    assert sorted(tags(data, "train") + tags(data, "val") + tags(data, "test")) == list(range(40))


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("x_train", "x_val", "x_test"), None),
        (("a", "b", "c"), {"train": "a", "val": "b", "test": "c"}),
        (("train/images", "val/images", "x"), {"train": "train/images", "val": "val/images", "test": "x"}),
    ],
)
def test_splits_of_the_file_are_kept(names, key, tmp_path):
    arrays = dict(zip(names, np.split(tagged(), [20, 30]), strict=True)) | {"other": tagged(7), "more": tagged(8)}
    data = Arrays(path=write(tmp_path, "h5", **arrays), key=key)
    assert [tags(data, s) for s in ("train", "val", "test")] == [[*range(20)], [*range(20, 30)], [*range(30, 40)]]


def test_a_split_that_the_file_lacks_is_taken_from_its_training_data(tmp_path):
    train, test = np.split(tagged(), [30])
    path = write(tmp_path, "npz", x_train=train, x_test=test, y_train=np.arange(30) % 3, y_test=np.arange(10) % 3)
    data = Arrays(path=path, val_fraction=0.2)
    assert tags(data, "test") == [*range(30, 40)]
    assert sorted(tags(data, "train") + tags(data, "val")) == [*range(30)]
    assert data.labels["val"].bincount().tolist() == [2, 2, 2], "class by class"
    for split, start in (("train", 0), ("val", 0), ("test", 30)):
        assert data.labels[split].tolist() == [(tag - start) % 3 for tag in tags(data, split)]


@pytest.mark.parametrize("all_labels", [True, False])
def test_x_beside_x_test_is_that_of_training(all_labels, tmp_path):
    arrays = {"x": tagged()[:30], "x_test": tagged()[30:], "y": np.arange(30) % 3, "y_test": np.arange(10) % 3}
    if not all_labels:
        del arrays["y_test"]
    data = Arrays(path=write(tmp_path, "npz", **arrays))
    assert tags(data, "test") == [*range(30, 40)]
    assert sorted(tags(data, "train") + tags(data, "val")) == [*range(30)]
    assert data.labels["train"].tolist() == [tag % 3 for tag in tags(data, "train")]
    assert set(data.labels) == {"train", "val", *(["test"] if all_labels else [])}


def test_x_beside_its_own_splits_is_not_parted_anew(tmp_path):
    path = write(tmp_path, "npz", x=tagged(), x_train=tagged()[:25], x_test=tagged()[25:], labels=np.arange(25) % 2)
    data = Arrays(path=path)
    assert tags(data, "test") == [*range(25, 40)]
    assert sorted(tags(data, "train") + tags(data, "val")) == [*range(25)]
    assert set(data.labels) == {"train", "val"}
    assert len(Arrays(path=path, key="x", labels="none").train) == 32, "a key names one array, and that alone"


@pytest.mark.parametrize("kind", ["npz", "npz compressed", "h5"])
@pytest.mark.parametrize("values", [["b", "a", "a"], [b"b", b"a", b"a"], [10, -3, -3], [True, False, False]])
def test_labels_of_any_kind_stay_with_their_datapoints(kind, values, tmp_path):
    labels = np.array(values)[np.arange(40) % 3]
    if kind == "h5" and labels.dtype.kind == "U":
        labels = labels.astype(object)
    data = Arrays(path=write(tmp_path, kind, images=tagged(), labels=labels))
    assert data.class_names == {"b": ("a", "b"), b"b": ("a", "b"), 10: ("-3", "10"), True: ("False", "True")}[values[0]]
    for split in ("train", "val", "test"):
        assert data.labels[split].tolist() == [int(tag % 3 == 0) for tag in tags(data, split)]
    assert Arrays(path=str(next(tmp_path.glob("file.*"))), labels="none").labels == {}


def test_labels_in_a_file_of_their_own_lie_anywhere_or_beside_the_data(tmp_path):
    path = write(tmp_path, "npy", x=tagged())
    np.save(tmp_path / "y.npy", (np.arange(40) % 2)[:, None])
    for labels in ("y.npy", str(tmp_path / "y.npy")):
        data = Arrays(path=path, labels=labels)
        assert data.labels["train"].tolist() == [tag % 2 for tag in tags(data, "train")]
    assert Arrays(path=path).labels == {}


COVARIATES = {"speed": tagged(shape=()) / 7, "choice": np.array(["left", "right", "ß"])[np.arange(40) % 3], "eye": tagged(shape=(2, 2), dtype=np.float64)}  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "npz compressed", "h5", "h5 compressed"])
def test_every_other_array_of_as_many_rows_goes_along_with_its_datapoints(kind, tmp_path):
    text = {"choice": COVARIATES["choice"].astype(object)} if kind.startswith("h5") else {}
    arrays = {**COVARIATES, **text, "bins": np.arange(39), "labels": np.arange(40) % 4}
    data = Arrays(path=write(tmp_path, kind, x=tagged(), **arrays), seed=2)
    for split in ("train", "val", "test"):
        rows, found = tags(data, split), data.covariates[split]
        assert data.origin(split).tolist() == rows
        assert found.keys() == COVARIATES.keys()
        for name, array in COVARIATES.items():
            assert found[name].shape == (len(rows), *array.shape[1:])
            assert np.array_equal(np.asarray(found[name]), array[rows])
            assert np.array_equal(found[name][1:3], array[rows[1:3]])
    eye = data.covariates["train"]["eye"].array
    assert isinstance(
        eye, np.memmap if "compressed" not in kind else HDF5Array if kind.startswith("h5") else np.ndarray
    )


def test_covariates_of_splits_of_the_files_own(tmp_path):
    arrays = {"x_train": tagged()[:30], "x_test": tagged()[30:], "speed_train": np.arange(30.0), "speed_test": np.arange(10.0), "lost_val": np.arange(30)}  # fmt: skip
    data = Arrays(path=write(tmp_path, "npz", **arrays))
    for split, first in (("train", 0), ("val", 0), ("test", 30)):
        assert np.asarray(data.covariates[split]["speed"]).tolist() == [tag - first for tag in tags(data, split)]
        assert data.origin(split).tolist() == [tag - first for tag in tags(data, split)], "of the split's own array"
    assert "lost_val" in data.covariates["train"]


def test_continuous_labels_are_a_covariate_and_told_once(tmp_path, capsys):
    path = write(tmp_path, "npz", x=tagged(), labels=np.arange(40) / 3)
    for key in (None, "labels"):
        data = Arrays(path=path, labels_key=key)
        assert data.labels == {}
        assert np.allclose(data.covariates["val"]["labels"], np.array(tags(data, "val")) / 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "labels are float64 (40,): a covariate; classes are whole numbers or text, (N,)" in line
    np.save(tmp_path / "far.npy", np.arange(40) / 3)
    data = Arrays(path=write(tmp_path, "npy", x=tagged()), labels="far.npy")
    assert np.allclose(data.covariates["val"]["labels"], np.array(tags(data, "val")) / 3)
    assert Arrays(path=path, labels="none").covariates["train"].keys() == {"labels"}


def test_labels_of_another_file_do_not_stand_for_a_covariate_of_the_same_name(tmp_path):
    path = write(tmp_path, "npz", x=tagged(), speed=np.arange(40.0))
    np.savez(tmp_path / "far.npz", speed=np.arange(40) % 2)
    data = Arrays(path=path, labels="far.npz", labels_key="speed")
    assert data.labels["train"].tolist() == [tag % 2 for tag in tags(data, "train")]
    assert np.asarray(data.covariates["train"]["speed"]).tolist() == tags(data, "train")


def test_arrays_of_objects_are_refused_as_labels_and_left_out_as_covariates(tmp_path):
    ragged = np.array([np.zeros(i) for i in range(40)], dtype=object)
    assert Arrays(path=write(tmp_path, "npz", x=tagged(), spikes=ragged)).covariates["train"] == {}
    with pytest.raises(DataError, match=r"40 objects \(labels\) for 40 datapoints; mend them"):
        Arrays(path=write(tmp_path, "npz", x=tagged(), labels=ragged))


def test_one_collection_parted_keeps_its_rows_and_covariates():
    parts = [torch.tensor([3, 0]), torch.tensor([4]), torch.tensor([1, 2])]
    for raw in (torch.arange(5.0)[:, None], pv.data.Mapped(np.arange(5.0)[:, None])):
        data = Dataset.parted("tiny", "made here", raw, parts, covariates={"speed": torch.arange(5.0) * 2, "who": np.array(list("abcde"))})  # fmt: skip
        assert [data.origin(split).tolist() for split in ("train", "val", "test")] == [[3, 0], [4], [1, 2]]
        assert np.asarray(data.covariates["train"]["speed"]).tolist() == [6, 0]
        assert data.covariates["test"]["who"][:].tolist() == ["b", "c"]
    with pytest.raises(DataError, match=r"tiny: val has 5 datapoints and speed \(4,\)"):
        Dataset("tiny", "made here", *torch.zeros(3, 5, 2), covariates={"val": {"speed": np.zeros(4)}})
    with pytest.raises(DataError, match=r"tiny: val has 5 datapoints and groups \(4,\)"):
        Dataset("tiny", "made here", *torch.zeros(3, 5, 2), groups={"val": torch.zeros(4)})


def test_the_first_value_outside_is_told_by_its_row_before_the_shuffle():
    x = torch.zeros(9, 2)
    x[7, 1] = torch.nan
    data = Dataset.parted("tiny", "made here", x, [torch.tensor([3, 0]), torch.tensor([7]), torch.tensor([1, 2])])
    assert data.outside(torch.isfinite).row == 7


@pytest.mark.parametrize(
    ("shape", "layout", "x_shape"),
    [
        ((5,), "auto", (5,)),
        ((6, 5), "auto", (1, 6, 5)),
        ((2, 6, 5), "auto", (2, 6, 5)),
        ((6, 5, 3), "auto", (3, 6, 5)),
        ((6, 5, 1), "auto", (1, 6, 5)),
        ((3, 6, 1), "channels_last", (1, 3, 6)),
        ((3, 6, 1), "channels_first", (3, 6, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "h5 compressed"])
def test_shapes(shape, layout, x_shape, kind, tmp_path):
    values = np.random.default_rng(0).normal(size=(30, *shape)).astype(np.float32)
    data = Arrays(path=write(tmp_path, kind, x=values), layout=layout)
    x = data.take("train")[0]
    assert data.x_shape == x_shape == tuple(x.shape[1:])
    assert x.is_contiguous()
    number = data.origin("train")[0].item()
    last = len(shape) == 3 and x_shape != shape
    assert torch.equal(
        x[0], torch.from_numpy(values[number].transpose(2, 0, 1) if last else values[number]).view(x_shape)
    )


def test_scale(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4), np.uint8)
    images, vectors = write(tmp_path, "npz", x=pixels), write(tmp_path, "npy", x=pixels.reshape(30, 16))

    def values(**how):
        data = Arrays(**how)
        number = data.origin("train")[0].item()
        return data.take("train")[0][0].flatten(), torch.from_numpy(pixels[number].flatten()).float()

    for how, scale in (
        ({"path": images}, 255),
        ({"path": images, "scale": "none"}, 1),
        ({"path": images, "scale": 51.0}, 51),
        ({"path": vectors}, 1),
        ({"path": vectors, "scale": 255}, 255),
    ):
        x, raw = values(**how)
        torch.testing.assert_close(x, raw / scale)


def test_eight_bits_that_may_be_counts_or_masks_are_asked_about_and_binarized_by_their_scale(tmp_path):
    masks = np.random.default_rng(0).integers(0, 2, (30, 4, 4), np.uint8)
    path = write(tmp_path, "npy", x=masks)
    with pytest.raises(DataError, match="values end at 1 may be counts, masks or dark pixels; set dataset.scale: none"):
        Arrays(path=path)
    data = Arrays(path=path, scale="none", binarize="static")
    x = torch.cat([data.take(split)[0] for split in ("train", "val", "test")])
    assert x.sum() == masks.sum(), "a mask is one with probability one, not 1/255"


def damaged(path, size):
    Path(path).write_bytes(Path(path).read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("make", "how", "message"),
    [
        (lambda f: f / "no.npy", {}, "dataset.path: .*no.npy does not exist; name a file: .npy, .npz, .h5, .hdf5"),
        (lambda f: f, {}, "is a folder; name a file"),
        (lambda f: (f / "a.csv").write_text("1") and f / "a.csv", {}, "a.csv has the suffix '.csv'; it must be one of"),
        (lambda f: damaged(write(f, "npy", x=tagged()), 300), {}, "cannot read .*file.npy .*; it is cut short, damaged"),
        (lambda f: damaged(write(f, "npy", x=tagged()), 3), {}, "cannot read .*file.npy"),
        (lambda f: damaged(write(f, "npz", x=tagged()), 300), {}, "cannot read .*file.npz .*zip"),
        (lambda f: damaged(write(f, "h5", x=tagged()), 300), {}, "cannot read .*file.h5"),
        (lambda f: write(f, "npz", a=tagged(), b=tagged(9)), {}, r"holds no x; set dataset.key to one of: a \(40, 3\), b \(9, 3\)"),
        (lambda f: write(f, "h5", a=tagged(), b=tagged(9)), {"key": "c"}, r"dataset.key: 'c' is not in .*; it holds: a \(40, 3\), b \(9, 3\)"),
        (lambda f: write(f, "npz", a=tagged(), b=tagged()), {"key": {"val": "a"}}, "dataset.key: names no train"),
        (lambda f: write(f, "npy", x=tagged()), {"key": "x"}, "dataset.key: 'x' is not in .*; leave it out"),
        (lambda f: write(f, "npy", x=np.array(3.0)), {}, r"has shape \(\); it must be \(N, D\)"),
        (lambda f: write(f, "npy", x=np.arange(9.0)), {}, r"has shape \(9,\); it must be"),
        (lambda f: write(f, "npy", x=np.zeros((9, 0))), {}, r"has shape \(9, 0\); it must be"),
        (lambda f: write(f, "npy", x=tagged().astype(complex)), {}, "holds complex128; save real numbers"),
        (lambda f: write(f, "npz", x=tagged().astype(object)), {}, r"\(x\): holds object; save real numbers"),
        (lambda f: write(f, "npy", x=tagged().astype(str)), {}, "holds <U"),
        (lambda f: write(f, "npy", x=tagged(2)), {}, "leaves nothing of 2 datapoints"),
        (lambda f: write(f, "npy", x=tagged()), {"val_fraction": 0.95}, "val_fraction 0.95 .* leaves nothing of 40"),
        (lambda f: write(f, "npz", x=tagged(), y=np.arange(39)), {}, r"39 labels \(y\) for 40 datapoints; mend them, or set dataset.labels: none"),
        (lambda f: write(f, "npz", x=tagged()), {"labels_key": "z"}, "dataset.labels_key: 'z' is not in"),
        (lambda f: write(f, "npz", x=tagged()), {"labels": "no.npy"}, "dataset.labels: .*no.npy does not exist"),
        (lambda f: write(f, "npy", x=tagged(9, (3, 5, 3))), {}, r"may be \(N, C, H, W\) or \(N, H, W, C\); set dataset.layout"),
    ],
)  # fmt: skip
def test_errors(make, how, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        Arrays(path=str(make(tmp_path)), **how)
    assert "\n" not in str(error.value)


def refused(path, likelihood, **dataset):
    values = {"dataset": {"name": "arrays", "path": path, **dataset}, "model": {"likelihood": likelihood}}
    with pytest.raises(DataError) as error:
        build_data(check(values))
    return str(error.value)


def counts(num=400, dim=6):
    return np.random.default_rng(0).poisson(2.0, (num, dim))


@pytest.mark.parametrize("kind", ["npy", "h5 compressed"])
def test_one_bad_value_anywhere_is_found_and_its_row_told(kind, tmp_path):
    data = Arrays(path=write(tmp_path, "npy", x=tagged(400, (6,))))
    for split in ("train", "val", "test"):
        values, row = counts().astype(float), tags(data, split)[5]
        values[row, 4] = np.nan
        (tmp_path / split).mkdir()
        text = refused(write(tmp_path / split, kind, x=values), "normal")
        assert f"1 of 2,400 values, 1 of them NaN, the first is nan in row {row} ({split})" in text
        assert text.endswith("clean the data, for no likelihood has a density there")


def test_what_is_outside_is_counted_and_the_remedy_told(tmp_path):
    values = counts().astype(np.int16)
    values[7, 2], values[20, :3] = -1, -5
    text = refused(write(tmp_path, "npz", x=values), "poisson")
    assert "file.npz" in text
    assert "4 of 2,400 values" in text
    assert f"finite values are in [-5, {values.max()}]" in text
    assert text.endswith("; mend these values, or set model.likelihood: normal")
    infinite = values.astype(float)
    infinite[3, 3] = np.inf
    text = refused(write(tmp_path, "npz", x=infinite), "normal")
    assert "1 of 2,400 values, 1 of them infinite, the first is inf in row 3" in text
    wide = np.random.default_rng(0).integers(0, 256, (30, 4, 4)).astype(np.float32)
    path = write(tmp_path, "npy", x=wide)
    bad = ((wide != 0) & (wide != 1)).sum()
    text = refused(path, "bernoulli")
    assert f"{bad:,} of 480 values" in text
    assert "set dataset.scale=255 and dataset.binarize: dynamic, or model.likelihood: poisson or normal" in text
    text = refused(path, "bernoulli", binarize="dynamic")
    assert f"{(wide > 1).sum():,} of 480 values" in text
    assert "outside [0, 1], which binarize draws from; set dataset.scale=255, or dataset.binarize: none" in text
    build_data(check({"dataset": {"name": "arrays", "path": path, "scale": 255, "binarize": "dynamic"}}))
    text = refused(path, "poisson", scale=255)
    assert "set dataset.scale: none, if they are counts that were scaled, or model.likelihood:" in text
    text = refused(path, "bernoulli", scale=255)
    assert "set dataset.binarize: dynamic, or model.likelihood: continuous_bernoulli or normal" in text


def test_the_first_is_the_first_of_its_split_in_the_file(tmp_path):
    values = np.full((400, 6), np.nan)
    data = Arrays(path=write(tmp_path, "npy", x=values))
    found = data.outside(pv.models.likelihoods.Normal.supports)
    assert (found.num, found.num_nan, found.num_values) == (2400, 2400, 2400)
    assert found.row == data.origin("train").min()
    assert "none is finite" in str(found)


def test_eight_bits_are_counted_where_not_all_of_their_values_are_allowed(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (40, 6), np.uint8)
    path = write(tmp_path, "npy", x=bits)
    build_data(check({"dataset": {"name": "arrays", "path": path}}))
    bits[7, 3] = 2
    text = refused(write(tmp_path, "npz", x=bits), "bernoulli")
    assert "1 of 240 values, the first is 2 in row 7" in text


def test_nan_does_not_hide_behind_a_normalization(tmp_path):
    values = counts().astype(float)
    values[9, 1] = np.nan
    assert "1 of 2,400 values, 1 of them NaN, the first is nan in row 9" in refused(
        write(tmp_path, "npy", x=values), "normal", normalize="standardize"
    )


def test_pixels_are_not_read_where_all_their_values_are_allowed(tmp_path, monkeypatch):
    data = Arrays(path=write(tmp_path, "npy", x=np.full((30, 4, 4), 200, np.uint8)))
    monkeypatch.setattr("pyrovae.data.rows.Mapped.read", lambda *_: pytest.fail("read them"))
    assert data.outside(pv.models.likelihoods.Normal.supports) is None
    assert data.outside(pv.models.likelihoods.ContinuousBernoulli.supports) is None


def reads(monkeypatch):
    """Counts rows that are read."""
    seen, read = [], pv.data.Mapped.read
    monkeypatch.setattr(pv.data.Mapped, "read", lambda rows, numbers, epoch=0: seen.extend(numbers) or read(rows, numbers, epoch))  # fmt: skip
    return seen


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["npy", "npz", "h5 compressed"])
def test_a_file_that_was_checked_is_not_read_again_until_it_changes(kind, tmp_path, monkeypatch, cache):
    seen, (normal, poisson) = reads(monkeypatch), (getattr(pv.models.likelihoods, n).supports for n in ("Normal", "Poisson"))  # fmt: skip

    def read(allowed=normal, path=tmp_path / "file", **how):
        seen.clear()
        assert Arrays(path=str(next(path.parent.glob(f"{path.name}.*"))), **how).outside(allowed) is None
        return sorted(seen)

    write(tmp_path, kind, x=tagged())
    assert read() == [*range(40)]
    assert read() == []
    assert read(poisson) == [*range(40)], "another question"
    assert read(scale=2.0) == [*range(40)], "other values"
    assert read(seed=1) == [*range(40)], "other splits"
    write(tmp_path, kind, x=tagged() + 1)
    assert read() == [*range(40)], "another file"
    assert read(poisson) == [*range(40)]
    assert read(poisson) == read() == []


def test_what_is_outside_is_looked_up_each_time(tmp_path, cache):
    path = write(tmp_path, "npy", x=-tagged())
    for _ in range(2):
        assert Arrays(path=path).outside(pv.models.likelihoods.Poisson.supports).num == 39 * 3


def test_a_lost_or_unwritable_memory_costs_a_look_and_nothing_else(tmp_path, monkeypatch, cache):
    seen, path = reads(monkeypatch), write(tmp_path, "npy", x=tagged())
    cache.write_text("no folder")
    for _ in range(2):
        seen.clear()
        assert Arrays(path=path).outside(pv.models.likelihoods.Normal.supports) is None
        assert len(seen) == 40


def test_parts_of_one_mapped_file_are_told_apart(tmp_path, monkeypatch, cache):
    np.save(tmp_path / "x.npy", tagged())
    array, seen, support = np.load(tmp_path / "x.npy", mmap_mode="r"), reads(monkeypatch), pv.models.likelihoods.Normal
    for part in (array[:10], array[10:20], array[:20:2], array[:10]):
        data = Dataset("mine", "mine", *[pv.data.Mapped(part)] * 3)
        data.outside(support.supports)
    assert len(seen) == 3 * 3 * 10


class Own(pv.models.likelihoods.Normal):
    """A likelihood that may be another one tomorrow."""


def test_only_supports_of_the_library_are_remembered(tmp_path, monkeypatch, cache):
    seen, path = reads(monkeypatch), write(tmp_path, "npy", x=tagged())
    for allowed in (Own.supports, lambda x: x > -1):
        for _ in range(2):
            seen.clear()
            assert Arrays(path=path).outside(allowed) is None
            assert len(seen) == 40


def test_fit_in_python_looks_at_every_value_too():
    x = torch.zeros(600, 4)
    x[555, 1] = 3
    data = Dataset("mine", "mine", x, x[:5], x[:5])
    model = pv.models.mlp((4,), z_dim=2, widths=(4,))
    family = pv.DiagonalNormal(2)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((4,), (family.num_params,), widths=(4,)))
    with pytest.raises(ValueError, match=r"1 of 2,440 values, the first is 3 in row 555 \(train\).* outside the support of Bernoulli"):  # fmt: skip
        pv.fit(model, guide, data, epochs=1, progress=False)


@pytest.mark.parametrize(("keys", "advised"), [({"scale", "binarize"}, {"scale", "binarize"}), ({"scale"}, set()), ({"binarize"}, {"binarize"}), ((), set())])  # fmt: skip
def test_only_settings_that_there_are_are_advised(keys, advised):
    for top, wanted in ((1.0, advised & {"binarize"}), (255.0, advised if len(keys) == 2 else set())):
        x = torch.linspace(0, top, 40).view(10, 4)
        with pytest.raises(ValueError, match="model.likelihood: ") as error:
            check_support(pv.models.likelihoods.Bernoulli, Dataset("mine", "mine", x, x, x), keys=keys)
        assert {key for key in ("scale", "binarize") if f"dataset.{key}" in str(error.value)} == wanted


def test_few_large_datapoints_are_looked_at(monkeypatch):
    sizes, batches = [], Dataset.batches
    monkeypatch.setattr(Dataset, "batches", lambda data, split, size, **how: sizes.append(size) or batches(data, split, size, **how))  # fmt: skip
    for shape in ((4,), (3, 448, 448), (2**20 + 1,)):
        x = torch.zeros(1, *shape).expand(3, *shape)
        check_support(pv.models.likelihoods.Normal, Dataset("mine", "mine", x, x, x))
    assert sizes == [256, 1, 1]


STREAM = """
import re, resource, sys, types
import numpy as np, torch
package = types.ModuleType("pyrovae")  # the data alone: Lightning takes seconds to import
package.__path__ = [sys.argv[1]]
sys.modules["pyrovae"] = package
from pyrovae.data import Arrays
import h5py
torch.set_num_threads(1)
held = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
limit = held + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for path, num_batches in (("large.npy", 1000), ("large.h5", 20)):  # a row in random order costs a chunk
    data = Arrays(path=path)
    assert data.outside(torch.isfinite) is None
    print(sum(len(x) for _, x in zip(range(num_batches), data.batches("train", 128))))
for load in (lambda: np.load("large.npy"), lambda: h5py.File("large.h5")["x"][:]):
    try:
        load()
        print("held it all")
    except (MemoryError, OSError, RuntimeError):
        print("no room")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_ten_times_what_may_be_held_streams(tmp_path):
    allowance, shape = 40 * 2**20, (100_000, 1_024)  # 400 MB of float32, nearly all unwritten
    np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, shape)[5] = 1
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("x", shape, np.float32, chunks=(64, 1_024), compression="gzip")[5] = 1
    command = [sys.executable, "-c", STREAM, str(ROOT / "pyrovae"), str(allowance)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["80000", str(20 * 128), "no room", "no room", ""]


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    """A run on counts of six neurons: its folder."""
    folder = tmp_path_factory.mktemp("spikes")
    np.savez(folder / "spikes.npz", x=counts(120), labels=np.arange(120) % 2)
    small = ["model.likelihood=poisson", "model.z_dim=2", "model.encoder.widths=[8]", "model.decoder.widths=[8]", "guide=semi_amortized", "guide.refiner.num_steps=2", "dataset.batch_size=32", "train.epochs=1", "train.accelerator=cpu"]  # fmt: skip
    code = train.main(["--config", str(ROOT / "configs" / "arrays.yaml"), "--quiet", f"dataset.path={folder / 'spikes.npz'}", f"train.save_dir={folder}", *small])  # fmt: skip
    assert code == 0
    return folder / "arrays" / "version_0"


def test_counts_train_and_go_on_from_where_the_file_lies_now(spikes, capsys):
    assert {path.stem for path in (spikes / "figures").iterdir()} >= {"reconstructions", "samples", "trajectory"}
    there = spikes.parent.parent / "spikes.npz"
    moved = there.rename(there.with_name("moved.npz"))
    try:
        assert train.main(["--resume", str(spikes), "--quiet", "train.epochs=2", f"dataset.path={moved}"]) == 0
        out = capsys.readouterr().out
        assert "96 training datapoints" in out
        assert "nats a datapoint" in out
        assert "image" not in out
        assert train.main(["--resume", str(spikes), "--quiet", "dataset.scale=2"]) == 2
        assert "dataset.scale: cannot change on resume" in capsys.readouterr().err
        assert sample.main([str(spikes), "--quiet", "--num", "4", f"dataset.path={moved}"]) == 0
        assert "not the data" not in capsys.readouterr().err
        assert (spikes / "samples" / "reconstructions.png").is_file()
    finally:
        moved.rename(there)
        (spikes / "config.yaml").write_text((spikes / "config.yaml").read_text().replace("moved.npz", "spikes.npz"))


def test_counts_are_evaluated_without_shifts_of_images(spikes, capsys):
    quick = ["--quiet", "--split", "test", "--num-data", "10", "--num-samples", "10", "--num-particles", "3", "--num-annealed", "0", "--num-simulated", "0", "--num-probe", "20", "--max-steps", "20", "--engine", "eager"]  # fmt: skip
    assert evaluate.main([str(spikes), *quick]) == 0
    told = capsys.readouterr()
    left_out = [line for line in told.err.splitlines() if "8-bit" in line]
    assert left_out == ["warning: rotated, noised, occluded: left out, for they are shifts of 8-bit images, and arrays has none"]  # fmt: skip
    assert "nats a datapoint" in told.out


def test_a_convolution_of_vectors_is_one_line(spikes, capsys):
    path = spikes.parent.parent / "spikes.npz"
    code = train.main(["--config", str(ROOT / "configs" / "arrays.yaml"), "--quiet", f"dataset.path={path}", "model.encoder=conv", "model.likelihood=poisson"])  # fmt: skip
    assert code == 2
    assert capsys.readouterr().err == "error: encoder: in_shape must be (channels, height, width), got (6,); use MLP\n"


def test_pictures_of_vectors_and_of_images_of_many_channels():
    from pyrovae.training.figures import datapoint_grid, datapoint_rows

    x = torch.arange(40.0).view(10, 4)
    figure = datapoint_rows({"input": x, "at λ₀": 2 * x})
    first, second = (axes.images[0] for axes in figure.axes[:2])
    np.testing.assert_array_equal(first.get_array(), x)
    np.testing.assert_array_equal(second.get_array(), 2 * x)
    assert first.get_clim() == second.get_clim()
    assert first.get_clim()[0] == 0
    images = torch.rand(6, 5, 4, 3)
    drawn = datapoint_grid(images, 3).axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn[1:5, 1:4, 0], images[0].mean(0), atol=1e-6)


def test_the_encoder_of_counts_refuses_what_is_negative(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0]] * 20 + [[-3.0, 1.0]], np.float32))
    values = {"dataset": {"name": "arrays", "path": str(tmp_path / "x.npy")}, "model": {"likelihood": "normal", "encoder": "counts"}}  # fmt: skip
    with pytest.raises(DataError, match=r"1 of 42 values, the first is -3 in row 20 .*; not for model.encoder: counts; set mlp"):  # fmt: skip
        build_data(check(values))
    values["model"]["encoder"] = "mlp"
    build_data(check(values))


def test_a_test_split_alone_is_not_parted_unasked(tmp_path):
    path = str(write(tmp_path, "npz", x_test=tagged()))
    with pytest.raises(DataError, match=r"holds no x; set dataset.key to one of: x_test \(40, 3\)"):
        Arrays(path=path)
    assert len(Arrays(path=path, key="x_test").train) == 32


def test_an_encrypted_file_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=tagged())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of the member, and of the directory
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*x.npz \(.*encrypted.*\)"):
        Arrays(path=str(path))
