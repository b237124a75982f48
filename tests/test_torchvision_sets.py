import socket
import time

import numpy as np
import pytest
import torch
from image_files import PARTS, WRITE_SET, tagged, write_cifar10, write_idx, write_mnist_like, write_tree
from PIL import Image

from pyrovae.data import DataError, Torchvision
from pyrovae.data.torchvision_sets import _SETS, _find


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))


@pytest.fixture
def any_md5(monkeypatch):
    """torchvision takes any file that is there, whatever its checksum."""
    import os

    for module in ("celeba", "cifar", "flowers102", "omniglot", "semeion", "stl10", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, *_: os.path.exists(path))


def numbers(data, split):
    """Of tagged images: what their first pixel says."""
    return (data.take(split)[0][:, 0, 0, 0] * 255).round().long()


def test_a_set_of_mnists_family_is_read_as_it_is(tmp_path):
    data = Torchvision(set="fashion_mnist", root=str(write_mnist_like(tmp_path)), val_fraction=0.25)
    assert [type(s) for s in (data.train, data.val, data.test)] == [torch.Tensor] * 3
    assert [tuple(s.shape) for s in (data.train, data.val, data.test)] == [(n, 1, 16, 16) for n in (30, 10, 12)]
    assert data.train.dtype == torch.uint8
    seen = {split: numbers(data, split) for split in ("train", "val", "test")}
    assert sorted(torch.cat([seen["train"], seen["val"]]).tolist()) == list(range(40))
    assert seen["test"].tolist() == list(range(40, 52)), "the test images are those of the set's authors"
    for split, of in seen.items():
        assert torch.equal(data.labels[split], of % 10)
        assert np.array_equal(data.rows(split).read(torch.arange(3))[:, 0], tagged(256)[of[:3]])
    assert data.labels["val"].bincount().tolist() == [1] * 10, "validation images are taken class by class"
    assert (data.class_names[0], data.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert data.source == f"FashionMNIST, 52 images of 10 classes in {tmp_path}/FashionMNIST/raw"


def test_emnist_needs_its_split_and_keeps_its_names(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    for prefix, num in (("emnist-letters-train", 30), ("emnist-letters-test", 10)):
        write_idx(folder, tagged(num), np.arange(num) % 26 + 1, prefix)
    data = Torchvision(set="EMNIST", root=str(tmp_path), options={"split": "letters"})
    assert [len(s) for s in (data.train, data.val, data.test)] == [27, 3, 10]
    assert [data.class_names[i] for i in data.labels["test"].tolist()] == list("abcdefghij")
    with pytest.raises(
        ValueError, match=r"^options.split: EMNIST needs it; set dataset.options.split: byclass, bymerge,"
    ):
        Torchvision(set="EMNIST", root=str(tmp_path))
    with pytest.raises(ValueError, match=r"^options: EMNIST: Unknown value 'lettres' for argument split. Valid values"):
        Torchvision(set="EMNIST", root=str(tmp_path), options={"split": "lettres"})


def test_cifar10_is_turned_to_channels_first(tmp_path, any_md5):
    data = Torchvision(set="CIFAR10", root=str(write_cifar10(tmp_path)), val_fraction=0.2)
    assert data.x_shape == (3, 32, 32)
    assert data.train.is_contiguous(), "torchvision has channels last"
    assert [len(s) for s in (data.train, data.val, data.test)] == [16, 4, 5]
    raw = torch.cat([data.train, data.val])
    assert torch.equal(raw[:, 1].int() - raw[:, 0], torch.ones(20, 32, 32).int())
    assert sorted((raw[:, 0, 0, 0]).tolist()) == sorted(n // 2 for n in range(20))
    assert data.class_names[3] == "class 3"
    grey = Torchvision(set="CIFAR10", root=str(tmp_path), color="grey", image_size=8, cache=str(tmp_path / "cache"))
    assert grey.x_shape == (1, 8, 8)
    assert sorted(numbers(grey, "test").tolist()) == sorted(n // 2 + 1 for n in range(20, 25))


def test_svhn_and_a_part_that_options_name(tmp_path, any_md5):
    from scipy.io import savemat

    for name, num, first in (("train", 20, 0), ("test", 5, 20), ("extra", 10, 25)):
        grey = tagged(num, 32, first).transpose(1, 2, 0)[:, :, None, :]
        values = np.concatenate([grey, grey, grey // 2], 2)  # (H, W, C, N)
        savemat(tmp_path / f"{name}_32x32.mat", {"X": values, "y": (np.arange(num) % 10 + 1)[:, None].astype(np.uint8)})
    data = Torchvision(set="svhn", root=str(tmp_path))
    assert [len(s) for s in (data.train, data.val, data.test)] == [18, 2, 5]
    assert numbers(data, "test").tolist() == list(range(20, 25))
    assert data.labels["test"].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(data.train[:, 2], data.train[:, 0] // 2)
    extra = Torchvision(set="svhn", root=str(tmp_path), options={"split": "extra"}, val_fraction=0.2, test_fraction=0.3)
    assert [len(s) for s in (extra.train, extra.val, extra.test)] == [5, 2, 3]
    assert sorted(torch.cat([numbers(extra, s) for s in ("train", "val", "test")]).tolist()) == list(range(25, 35))


def test_a_set_with_a_validation_part_of_its_own(tmp_path):
    for i, part in enumerate(("train", "valid", "test")):
        write_tree(tmp_path / "country211" / part, ["AD", "AE"], 4, first=i * 8)
    data = Torchvision(set="Country211", root=str(tmp_path), color="grey", cache=str(tmp_path / "cache"))
    for i, split in enumerate(("train", "val", "test")):
        assert numbers(data, split).tolist() == list(range(i * 8, i * 8 + 8))
        assert data.labels[split].tolist() == [0] * 4 + [1] * 4
    assert data.class_names == ("AD", "AE")
    rgb = Torchvision(set="Country211", root=str(tmp_path), image_size=6, seed=3, cache=str(tmp_path / "cache"))
    assert rgb.x_shape == (3, 6, 6), "torchvision's loader makes these RGB, and nothing else was asked for"


def test_a_set_without_parts_is_parted_class_by_class(tmp_path):
    write_tree(tmp_path / "eurosat" / "2750", ["Forest", "River"], 10)
    made = {seed: Torchvision(set="EuroSAT", root=str(tmp_path), seed=seed, cache=False) for seed in (0, 1)}
    assert [len(s) for s in (made[0].train, made[0].val, made[0].test)] == [16, 2, 2]
    seen = torch.cat([numbers(made[0], split) for split in ("train", "val", "test")])
    assert sorted(seen.tolist()) == list(range(20))
    labels = torch.cat([made[0].labels[split] for split in ("train", "val", "test")])
    assert torch.equal(labels, seen // 10)
    assert made[0].labels["val"].tolist().count(0) == 1
    assert not torch.equal(numbers(made[0], "train"), numbers(made[1], "train"))


def test_omniglot_numbers_do_not_depend_on_the_disk(tmp_path, any_md5, monkeypatch):
    from torchvision.datasets import omniglot

    for i, part in enumerate(("images_background", "images_evaluation")):
        alphabets = ["Greek/character01", "Greek/character02"] if i == 0 else ["Tengwar/character01"]
        write_tree(tmp_path / "omniglot-py" / part, alphabets, 4, first=i * 8)
        (tmp_path / "omniglot-py" / f"{part}.zip").touch()
    listed = {name: getattr(omniglot, name) for name in ("list_dir", "list_files")}
    made = []
    for turn in (sorted, lambda names: sorted(names, reverse=True)):
        for name, original in listed.items():
            monkeypatch.setattr(omniglot, name, lambda *args, o=original, t=turn: t(o(*args)))
        made.append(Torchvision(set="Omniglot", root=str(tmp_path), val_fraction=0.25, cache=False))
    for split in ("train", "val", "test"):
        assert torch.equal(made[0].take(split)[0], made[1].take(split)[0])
        assert torch.equal(made[0].labels[split], numbers(made[0], split) // 4), "evaluation's characters are others"
    assert made[0].class_names == ("Greek/character01", "Greek/character02", "Tengwar/character01")


@pytest.mark.parametrize("name", sorted(_SETS))
def test_every_set_that_is_offered_reads_files_in_its_own_format(tmp_path, any_md5, name):
    WRITE_SET[name](tmp_path)
    how = {"options": {"split": "digits"} if name == "EMNIST" else {}, "cache": str(tmp_path / "cache")}
    data = Torchvision(set=name, root=str(tmp_path), val_fraction=0.25, **how)
    x = {split: data.take(split)[0] for split in PARTS}
    first = {split: (of[:, 0, 0, 0] * 255).round().long() for split, of in x.items()}
    if name == "SEMEION":
        first = {split: of.flatten(1).argmax(1) for split, of in x.items()}
    own = {split: numbers for split, numbers in PARTS.items() if split in _SETS[name].parts}
    for split, numbers in own.items():
        if split != "train":
            assert sorted(first[split].tolist()) == [*numbers]
    assert sorted(number for of in first.values() for number in of.tolist()) == [n for of in own.values() for n in of]
    for split, numbers in first.items():
        assert torch.equal(data.labels[split], numbers % 2)
    assert len(set(data.class_names)) == len(data.class_names) >= 2
    assert {len(of[0]) for of in x.values()} == {1 if name in {"Omniglot", "SEMEION", "USPS"} or "MNIST" in name else 3}
    small = Torchvision(set=name, root=str(tmp_path), image_size=4, color="grey", crop="none", **how)
    assert small.x_shape == (1, 4, 4)


def test_a_changed_array_is_another_cache(tmp_path):
    how = {"set": "FashionMNIST", "image_size": 8, "cache": str(tmp_path / "cache"), "crop": "none"}
    before = Torchvision(root=str(write_mnist_like(tmp_path / "a")), **how)
    write_idx(tmp_path / "b" / "FashionMNIST" / "raw", 255 - tagged(40), np.arange(40) % 10, "train")
    write_idx(tmp_path / "b" / "FashionMNIST" / "raw", 255 - tagged(12), np.arange(12) % 10, "t10k")
    assert not torch.equal(Torchvision(root=str(tmp_path / "b"), **how).take("test")[0], before.take("test")[0])


def test_images_without_labels(tmp_path, any_md5):
    WRITE_SET["STL10"](tmp_path)
    data = Torchvision(set="STL10", root=str(tmp_path), options={"split": "unlabeled"}, val_fraction=0.25)
    assert [len(data.rows(split)) for split in PARTS] == [2, 1, 1]
    assert sorted(number for split in PARTS for number in numbers(data, split).tolist()) == [30, 31, 32, 33]
    assert (data.labels, data.class_names) == ({}, ())
    assert "classes" not in data.source


def test_images_of_unlike_size_want_a_size(tmp_path):
    write_tree(tmp_path / "eurosat" / "2750", ["Forest"], 20)
    Image.new("RGB", (20, 10)).save(tmp_path / "eurosat" / "2750" / "Forest" / "+.png")
    for cache in (str(tmp_path / "cache"), False):
        with pytest.raises(
            DataError,
            match=r"EuroSAT: .*/Forest/\d+.png gives \(3, 16, 16\) instead of \(3, 10, 20\); set dataset.image_size",
        ):
            Torchvision(set="EuroSAT", root=str(tmp_path), cache=cache).take("train")
    assert Torchvision(set="EuroSAT", root=str(tmp_path), image_size=5, cache=False).x_shape == (3, 5, 5)


def test_a_damaged_image_is_named(tmp_path):
    write_tree(tmp_path / "eurosat" / "2750", ["Forest"], 10)
    broken = tmp_path / "eurosat" / "2750" / "Forest" / "3.png"
    broken.write_bytes(broken.read_bytes()[:45])
    with pytest.raises(
        DataError, match=f"EuroSAT: cannot read {broken} .*; mend or remove it, or set dataset.on_bad: skip"
    ):
        Torchvision(set="EuroSAT", root=str(tmp_path), image_size=8, cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("bad", [0, 3, 19])  # the first and the last are looked at before all others
def test_a_damaged_image_is_left_out_with_its_label(tmp_path, bad):
    write_tree(tmp_path / "eurosat" / "2750", ["Forest", "River"], 10)
    broken = tmp_path / "eurosat" / "2750" / ("Forest" if bad < 10 else "River") / f"{bad % 10}.png"
    broken.write_bytes(broken.read_bytes()[:45])
    data = Torchvision(set="EuroSAT", root=str(tmp_path), on_bad="skip", cache=str(tmp_path / "cache"))
    seen = torch.cat([numbers(data, split) for split in ("train", "val", "test")])
    assert sorted(seen.tolist()) == [n for n in range(20) if n != bad]
    assert torch.equal(torch.cat([data.labels[split] for split in ("train", "val", "test")]), seen // 10)


def test_a_cache_and_strangers_in_root_do_not_make_another_cache(tmp_path, capsys):
    base = tmp_path / "fgvc-aircraft-2013b" / "data"
    for number, split in enumerate(("train", "val", "test")):
        write_tree(base, ["images"], 9)
        names = "".join(f"{i}\n" for i in range(3 * number, 3 * number + 3))
        (base / f"images_variant_{split}.txt").write_text(names.replace("\n", " Boeing\n"))
    (base / "variants.txt").write_text("Boeing\n")
    for file in (base / "images").iterdir():
        Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
    how = {"set": "FGVCAircraft", "root": str(tmp_path), "image_size": 6, "cache": str(tmp_path / "cache")}
    Torchvision(**how)
    assert "decoding" in capsys.readouterr().err
    (tmp_path / "elsewhere.txt").write_text("no part of the set")
    Torchvision(**how)
    assert "decoding" not in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(base / "images" / "8.jpg")
    Torchvision(**how)
    assert "decoding" in capsys.readouterr().err, "a test image changed"


def test_names():
    assert [_find(name) for name in ("fashion_mnist", "FASHIONMNIST", "cifar10", "SVHN", "CelebA", "stl-10")] == [
        "FashionMNIST", "FashionMNIST", "CIFAR10", "SVHN", "CelebA", "STL10",
    ]  # fmt: skip
    message = (
        r"^set 'Kinetics' is no image set of torchvision that was tried; valid: MNIST, FashionMNIST,.*; any folder of"
    )
    with pytest.raises(ValueError, match=message):
        Torchvision(set="Kinetics")
    with pytest.raises(ValueError, match=r"tried; did you mean FashionMNIST\? valid: "):
        Torchvision(set="fashion_mnits")


def test_missing_files_name_the_folder_and_the_remedy(tmp_path, monkeypatch, capsys):
    with pytest.raises(
        DataError, match=r"KMNIST: no complete files in .*/KMNIST/raw \(dataset.root\), and dataset.download"
    ):
        Torchvision(set="KMNIST", root=str(tmp_path), download=False)
    assert capsys.readouterr() == ("", "")

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        DataError, match=r"KMNIST: no complete files .*, and no download \(.*\); put them there as "
    ) as caught:
        Torchvision(set="KMNIST", root=str(tmp_path))
    assert "\n" not in str(caught.value)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"KMNIST: no complete files in {tmp_path}/KMNIST/raw; downloading them\n"


def test_options_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="^options.fold: unknown for STL10; valid: split, folds"):
        Torchvision(set="STL10", root=str(tmp_path), options={"fold": 1})


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server that has Fashion-MNIST, and is all the network there is."""
    import gzip
    import hashlib
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from torchvision.datasets import FashionMNIST

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    resources = []
    for file in sorted((write_mnist_like(tmp_path / "theirs") / "FashionMNIST" / "raw").iterdir()):
        packed = gzip.compress(file.read_bytes())
        file.with_suffix(".gz").write_bytes(packed)
        resources.append((file.with_suffix(".gz").name, hashlib.md5(packed).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(file.parent)))
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_address[1]}/"])
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_missing_files_are_downloaded_once(tmp_path, monkeypatch, capsys, mirror):
    root = str(tmp_path / "ours")
    data = Torchvision(set="FashionMNIST", root=root)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"FashionMNIST: no complete files in {root}/FashionMNIST/raw; downloading them\n")
    assert [len(s) for s in (data.train, data.val, data.test)] == [36, 4, 12]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))
    assert torch.equal(Torchvision(set="FashionMNIST", root=root).train, data.train)
    assert capsys.readouterr() == ("", "")


def test_of_two_processes_one_downloads(tmp_path, monkeypatch, capfd, mirror):
    import multiprocessing

    asked = []
    handle = mirror.RequestHandlerClass.func.do_GET
    monkeypatch.setattr(
        mirror.RequestHandlerClass.func, "do_GET", lambda self: (asked.append(self.path), time.sleep(0.1), handle(self))
    )
    Torchvision(set="FashionMNIST", root=str(tmp_path / "alone"))
    alone = sorted(asked)
    asked.clear()
    capfd.readouterr()
    root = str(tmp_path / "ours")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=lambda: Torchvision(set="FashionMNIST", root=root)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(asked) == alone
    err = capfd.readouterr().err
    assert err.count("; downloading them") == 1
    assert err.count("FashionMNIST: another process is downloading into") == 1
