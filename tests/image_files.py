"""Small files as data sets have them: image number i is grey, with levels i and 255 - i, so that an image tells its number."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image


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
