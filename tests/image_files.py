"""Small files as data sets have them: image number i is grey, with levels i and 255 - i, so that an image tells its number."""

import bz2
import json
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def tagged(num: int, size: int = 16, first: int = 0) -> np.ndarray:
    """uint8 (num, size, size); the upper half of an image is its number, the lower half 255 less it."""
    levels = np.arange(first, first + num, dtype=np.uint8)[:, None, None]
    return np.broadcast_to(levels, (num, size, size)) ^ np.where(np.arange(size)[:, None] < size // 2, 0, 255).astype(
        np.uint8
    )


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str) -> None:
    """MNIST's format: `train-images-idx3-ubyte` and the like."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, magic, values in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = bytes((0, 0, 8, magic)) + np.array(values.shape, ">i4").tobytes()
        (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist_like(root: Path, name: str = "FashionMNIST", num_train: int = 40, num_test: int = 12) -> Path:
    """The root of a set of MNIST's family, whose classes are the numbers modulo 10."""
    for prefix, num, first in (("train", num_train, 0), ("t10k", num_test, num_train)):
        labels = np.arange(first, first + num) % 10
        write_idx(root / name / "raw", tagged(num, first=first), labels, prefix)
    return root


def write_tree(root: Path, folders: list[str], num: int, first: int = 0, suffix: str = "png") -> Path:
    """`num` pictures in each folder; numbers go on from folder to folder."""
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for j, image in enumerate(tagged(num, first=first + i * num)):
            Image.fromarray(image).save(root / folder / f"{j}.{suffix}")
    return root


def write_cifar10(root: Path) -> Path:
    """Five batches of four images and one of five to test, their three channels shifted by 0, 1 and 2."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        num = 4 if name != "test_batch" else 5
        grey = tagged(num, 32, first=4 * i).reshape(num, 1, -1)
        data = np.concatenate([grey // 2 + channel for channel in range(3)], 1).reshape(num, -1)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": list(range(4 * i % 10, 4 * i % 10 + num))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(20)]}))
    return root


# Sets of torchvision, as small as they can be: images 0 to 11 train, 12 to 15 validate, where the set has such a part, and
# 16 to 19 test; the class of a number is whether it is odd.

PARTS = {"train": range(12), "val": range(12, 16), "test": range(16, 20)}


def pictures(folder: Path, numbers: Iterable[int], name: Callable[[int], str]) -> None:
    for number in numbers:
        (folder / name(number)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tagged(1, first=number)[0]).convert("RGB").save(folder / name(number), quality=100)


def lines(file: Path, texts: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(texts) + "\n")


def odd(number: int) -> str:
    return "ab"[number % 2]


def mnist(root: Path, name: str, train: str = "train", test: str = "t10k") -> None:
    for prefix, num, first in ((train, 12, 0), (test, 4, 16)):
        write_idx(root / name / "raw", tagged(num, first=first), np.arange(num) % 2, prefix)


def qmnist(root: Path) -> None:
    for prefix, num, first in (("qmnist-train", 12, 0), ("qmnist-test", 4, 16)):
        write_idx(root / "QMNIST" / "raw", tagged(num, first=first), np.zeros(0), prefix)
        labels = np.zeros((num, 8), ">i4")
        labels[:, 0] = np.arange(num) % 2
        header = bytes((0, 0, 12, 2)) + np.array(labels.shape, ">i4").tobytes()
        (root / "QMNIST" / "raw" / f"{prefix}-labels-idx2-int").write_bytes(header + labels.tobytes())


def cifar(root: Path, folder: str, names: list[str], key: str) -> None:
    (root / folder).mkdir(parents=True)
    for i, name in enumerate(names):
        numbers = PARTS["test"] if i == len(names) - 1 else np.array_split(PARTS["train"], len(names) - 1)[i]
        grey = tagged(len(numbers), 32, numbers[0]).reshape(len(numbers), 1, -1)
        values = {"data": np.repeat(grey, 3, 1).reshape(len(numbers), -1), key: [int(n) % 2 for n in numbers]}
        (root / folder / name).write_bytes(pickle.dumps(values))


def cifar10(root: Path) -> None:
    cifar(root, "cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "labels")
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))


def cifar100(root: Path) -> None:
    cifar(root, "cifar-100-python", ["train", "test"], "fine_labels")
    (root / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}))


def svhn(root: Path) -> None:
    for name, num, first in (("train", 12, 0), ("test", 4, 16)):
        values = np.repeat(tagged(num, 32, first).transpose(1, 2, 0)[:, :, None], 3, 2)  # (H, W, C, N)
        savemat(root / f"{name}_32x32.mat", {"X": values, "y": (np.arange(num) % 2)[:, None].astype(np.uint8)})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, num, first in (("train", 12, 0), ("test", 4, 16), ("unlabeled", 4, 30)):
        images = np.repeat(tagged(num, 96, first)[:, None], 3, 1)
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{name}_y.bin").write_bytes((np.arange(num, dtype=np.uint8) % 2 + 1).tobytes())
    lines(folder / "class_names.txt", ["a", "b"])


def usps(root: Path) -> None:
    for name, num, first in (("usps.bz2", 12, 0), ("usps.t.bz2", 4, 16)):
        values = (tagged(num, 16, first).reshape(num, -1) + 0.3) / 255 * 2 - 1
        texts = (f"{i % 2 + 1} " + " ".join(f"{k}:{v:.6f}" for k, v in enumerate(x, 1)) for i, x in enumerate(values))
        (root / name).write_bytes(bz2.compress("\n".join(texts).encode()))


def semeion(root: Path) -> None:
    """Binary pixels: one is set, and its place is the number."""
    ones = np.arange(12)[:, None] == np.arange(256)
    np.savetxt(root / "semeion.data", np.concatenate([ones, np.eye(10)[np.arange(12) % 2]], 1))


def celeba(root: Path) -> None:
    folder, names = root / "celeba", [f"{number:06}.jpg" for number in range(20)]
    pictures(folder / "img_align_celeba", range(20), lambda n: names[n])
    lines(folder / "list_eval_partition.txt", [f"{name} {(n >= 12) + (n >= 16)}" for n, name in enumerate(names)])
    lines(folder / "identity_CelebA.txt", [f"{name} {n % 2}" for n, name in enumerate(names)])
    for name in ("list_attr_celeba.txt", "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        lines(folder / name, ["20", "x y", *(f"{name} 1 -1" for name in names)])


def omniglot(root: Path) -> None:
    for part, split in (("images_background", "train"), ("images_evaluation", "test")):
        pictures(root / "omniglot-py" / part, PARTS[split], lambda n: f"Greek/{odd(n)}/{n:02}.png")
        (root / "omniglot-py" / f"{part}.zip").touch()


def by_class(folder: Path, parts: Mapping[str, str], classes: Sequence[str] = "ab") -> None:
    for split, name in parts.items():
        pictures(folder / name, PARTS[split], lambda n: f"{classes[n % 2]}/{n:02}.png")


def aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    pictures(folder / "images", range(20), "{}.jpg".format)
    lines(folder / "variants.txt", "ab")
    for split, numbers in PARTS.items():
        lines(folder / f"images_variant_{split}.txt", [f"{n} {odd(n)}" for n in numbers])


def flowers(root: Path) -> None:
    pictures(root / "flowers-102" / "jpg", range(20), lambda n: f"image_{n + 1:05}.jpg")
    ids = {key: 1 + np.array(of) for key, of in zip(("trnid", "valid", "tstid"), PARTS.values(), strict=True)}
    savemat(root / "flowers-102" / "setid.mat", ids)
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.arange(20) % 2 + 1})


def dtd(root: Path) -> None:
    pictures(root / "dtd/dtd/images", range(20), lambda n: f"{odd(n)}/{n}.jpg")
    for split, numbers in PARTS.items():
        lines(root / f"dtd/dtd/labels/{split}1.txt", [f"{odd(n)}/{n}.jpg" for n in numbers])


def food(root: Path) -> None:
    pictures(root / "food-101" / "images", range(20), lambda n: f"{odd(n)}/{n}.jpg")
    for split in ("train", "test"):
        names = {c: [f"{c}/{n}" for n in PARTS[split] if odd(n) == c] for c in "ab"}
        lines(root / "food-101" / "meta" / f"{split}.json", [json.dumps(names)])


def caltech(root: Path) -> None:
    (root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir(parents=True)
    (root / "caltech101" / "Annotations").mkdir()
    folder = root / "caltech101" / "101_ObjectCategories"
    pictures(folder, range(12), lambda n: f"{odd(n)}/image_{n // 2 + 1:04}.jpg")


def pets(root: Path) -> None:
    pictures(root / "oxford-iiit-pet" / "images", range(20), lambda n: f"{odd(n)}_cat_{n}.jpg")
    for name, split in (("trainval", "train"), ("test", "test")):
        texts = [f"{odd(n)}_cat_{n} {n % 2 + 1} 1 1" for n in PARTS[split]]
        lines(root / "oxford-iiit-pet" / "annotations" / f"{name}.txt", texts)


def gtsrb(root: Path) -> None:
    pictures(root / "gtsrb/GTSRB/Training", PARTS["train"], lambda n: f"{n % 2:05}/{n:05}.ppm")
    pictures(root / "gtsrb/GTSRB/Final_Test/Images", PARTS["test"], "{:05}.ppm".format)
    rows = [f"{n:05}.ppm;16;{n % 2}" for n in PARTS["test"]]
    lines(root / "gtsrb/GT-final_test.csv", ["Filename;Width;ClassId", *rows])


WRITE_SET: dict[str, Callable[[Path], None]] = {
    **{name: partial(mnist, name=name) for name in ("MNIST", "FashionMNIST", "KMNIST")},
    "EMNIST": partial(mnist, name="EMNIST", train="emnist-digits-train", test="emnist-digits-test"),
    "QMNIST": qmnist,
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "SVHN": svhn,
    "STL10": stl10,
    "USPS": usps,
    "SEMEION": semeion,
    "CelebA": celeba,
    "Omniglot": omniglot,
    "EuroSAT": lambda root: by_class(root / "eurosat", {"train": "2750"}),
    "Country211": lambda root: by_class(root / "country211", {"train": "train", "val": "valid", "test": "test"}),
    "FGVCAircraft": aircraft,
    "Flowers102": flowers,
    "DTD": dtd,
    "RenderedSST2": lambda root: by_class(
        root / "rendered-sst2", {"train": "train", "val": "valid", "test": "test"}, ("negative", "positive")
    ),
    "Food101": food,
    "Caltech101": caltech,
    "OxfordIIITPet": pets,
    "GTSRB": gtsrb,
}
