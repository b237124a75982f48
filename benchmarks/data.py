"""Speed of data, beside what one usually writes, in one run.

    python benchmarks/data.py --root data

Three contests, on one thread of torch:

- a tree of JPEGs to batches of grey 32 × 32 images: torchvision's ImageFolder with Grayscale, Resize, CenterCrop and
  ToTensor in a DataLoader of two workers, against `SUN397` of two threads, which decodes into its cache in the first
  epoch and reads that in later ones; and against the same without a cache. The tree is made here, of pieces of the
  photographs inside scikit-image and scikit-learn: `--images` files of 300 to 900 pixels along the shorter side;
- digits in memory: torchvision's MNIST with ToTensor in a DataLoader, and torch's own loop over a tensor, indexed by a
  permutation batch by batch, against `MNIST`; grey, and binarised anew;
- what share of an epoch of `vae_mlp` goes to making batches.

Epochs are timed by themselves, the fastest of `--epochs`; a first epoch starts where the data set is made.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import TimedData
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST, ImageFolder

import pyrovae as pv

BATCH, SIZE, WORKERS, Z_DIM, WIDTHS = 128, 32, 2, 50, (200, 200)


def photographs() -> list[Image.Image]:
    """Those inside scikit-image and scikit-learn, in colour."""
    from skimage import data  # noqa: PLC0415
    from sklearn.datasets import load_sample_images  # noqa: PLC0415

    own = [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")]
    return [Image.fromarray(np.asarray(pixels)) for pixels in (*own, *load_sample_images().images)]


def make_tree(root: Path, num: int) -> int:
    """JPEGs in twenty classes; returns their bytes."""
    pictures, rng, size = photographs(), np.random.default_rng(0), 0
    for i in range(num):
        picture = pictures[i % len(pictures)]
        share = rng.uniform(0.5, 1)
        w, h = (int(side * share) for side in picture.size)
        left, top = (int(rng.integers(side - part + 1)) for side, part in zip(picture.size, (w, h), strict=True))
        scale = rng.integers(300, 901) / min(w, h)
        path = root / "abcdefghij"[i % 10] / f"scene_{i % 20:02d}" / f"sun_{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = picture.resize((int(w * scale), int(h * scale)), box=(left, top, left + w, top + h))
        cut.save(path, quality=90)
        size += path.stat().st_size
    return size


def seconds(batches: Iterable[Any]) -> float:
    """Of one pass."""
    start = perf_counter()
    for _ in batches:
        pass
    return perf_counter() - start


def tree_epochs(root: Path, epochs: int) -> dict[str, dict[str, float]]:
    """Seconds of the first epoch, and of the fastest later one, of each contestant."""
    steps = (transforms.Grayscale(), transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor())

    def usual() -> Iterable[Any]:
        folder = ImageFolder(str(root), transforms.Compose(steps))
        return DataLoader(folder, batch_size=BATCH, shuffle=True, num_workers=WORKERS)

    def ours(cache: str | bool) -> Iterable[Any]:
        data = pv.data.SUN397(root=str(root), image_size=SIZE, cache=cache, num_workers=WORKERS)
        return _Everything(data)

    with TemporaryDirectory() as cache:
        contestants = {
            "ImageFolder + DataLoader": usual,
            "SUN397, cached": lambda: ours(cache),
            "SUN397, `cache: false`": lambda: ours(False),
        }
        rows = {}
        for name, make in contestants.items():
            start = perf_counter()
            batches = make()
            seconds(batches)
            first = perf_counter() - start
            rows[name] = {"first": first, "later": min(seconds(batches) for _ in range(epochs))}
        start = perf_counter()
        ours(cache)
        rows["SUN397, cached"]["start_again"] = perf_counter() - start
    return rows


class _Everything:
    """All splits in one pass: as many images as ImageFolder reads."""

    def __init__(self, data: pv.data.Dataset) -> None:
        self.parts = [data.batches(split, BATCH) for split in pv.data.SPLITS]

    def __iter__(self) -> Any:
        for part in self.parts:
            yield from part


def plain_loop(images: torch.Tensor, binarize: str) -> Iterable[torch.Tensor]:
    """The plainest code: a tensor of pixels, indexed by a permutation."""
    order = torch.randperm(len(images))
    for start in range(0, len(images), BATCH):
        x = images[order[start : start + BATCH]].float() / 255
        yield torch.bernoulli(x) if binarize == "dynamic" else x


def memory_epochs(root: str, epochs: int) -> dict[str, dict[str, float]]:
    """Images a second of digits in memory."""
    data = pv.data.MNIST(root=root, source="full")
    usual = MNIST(root, transform=transforms.ToTensor())
    rows: dict[str, dict[str, float]] = {}
    for workers in (0, WORKERS):
        loader = DataLoader(usual, batch_size=BATCH, shuffle=True, num_workers=workers)
        best = min(seconds(loader) for _ in range(2))
        rows[f"DataLoader, num_workers={workers}"] = {"images_per_second": len(usual) / best}
    for binarize in ("none", "dynamic"):
        best = min(seconds(plain_loop(data.train, binarize)) for _ in range(epochs))
        rows[f"loop over a tensor, {binarize}"] = {"images_per_second": len(data.train) / best}
        batches = pv.data.MNIST(root=root, source="full", binarize=binarize).batches("train", BATCH)  # type: ignore[arg-type]
        best = min(seconds(batches) for _ in range(epochs))
        rows[f"MNIST, binarize: {binarize}"] = {"images_per_second": len(data.train) / best}
    baseline = max(row["images_per_second"] for name, row in rows.items() if name.startswith("DataLoader"))
    for row in rows.values():
        row["ratio"] = row["images_per_second"] / baseline
    return rows


def loader_share(root: str, epochs: int) -> dict[str, dict[str, float]]:
    """What part of an epoch of `vae_mlp` is spent on batches."""
    data = pv.data.MNIST(root=root, source="full")
    alone = min(seconds(data.batches("train", BATCH)) for _ in range(5))
    rows = {}
    for engine in ("eager", "compiled"):
        of_epochs: list[float] = []
        torch.manual_seed(0)
        model, family = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS), pv.DiagonalNormal(Z_DIM)
        guide = pv.AmortizedGuide(family, pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS))
        timed: Any = TimedData(data, of_epochs.append)
        pv.fit(model, guide, timed, epochs=epochs, batch_size=BATCH, engine=engine, progress=False)
        rows[engine] = {"epoch": min(of_epochs), "loader": alone, "share": alone / min(of_epochs)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--images", type=int, default=4000, help="in the tree of JPEGs")
    parser.add_argument("--epochs", type=int, default=5, help="timed, of each contestant; the fastest counts")
    parser.add_argument("--only", nargs="*", choices=("tree", "memory", "share"), default=("tree", "memory", "share"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/data.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(args.json.read_text()) if args.json.is_file() else {}
    result["torch"] = torch.__version__
    if "tree" in args.only:
        with TemporaryDirectory() as folder:
            size = make_tree(Path(folder), args.images)
            rows = tree_epochs(Path(folder), args.epochs)
        result["tree"] = {"images": args.images, "mean_kilobytes": size / args.images / 1000, **rows}
        usual = rows["ImageFolder + DataLoader"]
        print(f"{args.images} JPEGs of {size / args.images / 1000:.0f} kB\n")
        print("| | first epoch, s | × | later epochs, s | × |\n|---|---|---|---|---|")
        for name, row in rows.items():
            first, later = (usual[key] / row[key] for key in ("first", "later"))
            print(f"| {name} | {row['first']:.2f} | {first:.2f} | {row['later']:.3f} | {later:.1f} |")
        print(f"\na second start takes {rows['SUN397, cached']['start_again']:.2f} s", flush=True)
    if "memory" in args.only:
        result["memory"] = rows = memory_epochs(args.root, args.epochs)
        print("\n| digits in memory | images/s | × |\n|---|---|---|")
        for name, row in rows.items():
            print(f"| {name} | {row['images_per_second']:,.0f} | {row['ratio']:.1f} |", flush=True)
    if "share" in args.only:
        result["share"] = rows = loader_share(args.root, 3)
        print("\n| vae_mlp | epoch, s | of which batches, s | % |\n|---|---|---|---|")
        for name, row in rows.items():
            print(f"| {name} | {row['epoch']:.2f} | {row['loader']:.3f} | {100 * row['share']:.1f} |", flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
