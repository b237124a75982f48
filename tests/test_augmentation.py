"""Flips and shifts of training images: closed forms, and what they must not depend on."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

import pyrovae as pv
from pyrovae.config import ConfigError, build_data, check, to_yaml
from pyrovae.data import Augmentation, DataError, Dataset
from pyrovae.runs.folder import RunFolder
from pyrovae.runs.load import Trained, open_run

WIDTH, SHIFT = 7, 2


def tagged(num: int, channels: int = 1, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Images (num, C, 5, 7) of which every pixel says where it is from: 100 v + u, negated in other channels."""
    v, u = torch.arange(5)[:, None], torch.arange(WIDTH)
    sign = torch.tensor([1, -1, 2])[:channels, None, None]
    return (sign * (100 * v + u)).to(dtype).expand(num, -1, -1, -1)


def moved(image: torch.Tensor, mirrored: bool, dv: int, du: int) -> torch.Tensor:
    """One view, written pixel by pixel."""
    height, width = image.shape[1:]
    source = image.flip(-1) if mirrored else image
    clamped = [
        [(min(max(v - dv, 0), height - 1), min(max(u - du, 0), width - 1)) for u in range(width)] for v in range(height)
    ]
    return torch.stack([torch.stack([source[:, v, u] for v, u in row], -1) for row in clamped], 1)


def views(augment: Augmentation, num: int, key: int = 1, channels: int = 1, dtype=torch.int64) -> torch.Tensor:
    return augment(tagged(num, channels, dtype), key, torch.arange(num))


def told(view: torch.Tensor) -> tuple[bool, int, int]:
    """Mirror and shifts of a view of `tagged`, read off its pixels."""
    v, u = view[0, 2, 3].item() // 100, view[0, 2, 3].item() % 100
    mirrored = view[0, 2, 4].item() < view[0, 2, 3].item()
    return mirrored, 2 - v, 3 - (WIDTH - 1 - u if mirrored else u)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int16])
def test_a_view_is_a_mirrored_and_shifted_image_with_repeated_edges(dtype, channels):
    image = torch.randint(0, 100, (1, channels, 5, WIDTH)).to(dtype).expand(60, -1, -1, -1)
    augment, numbers = Augmentation(flip=True, shift=SHIFT), torch.arange(60)
    plain, found = augment(image, 1, numbers), [told(view) for view in views(augment, 60)]
    assert plain.dtype == dtype
    assert plain.shape == image.shape
    for view, how in zip(plain, found, strict=True):
        assert torch.equal(view, moved(image[0], *how))
    assert len(set(found)) > 30, "views hardly differ"


def test_within_the_edges_a_shift_is_a_roll():
    for view in views(Augmentation(shift=SHIFT), 20):
        _, dv, du = told(view)
        rolled = tagged(1)[0].roll((dv, du), (1, 2))
        inner = (slice(None), slice(SHIFT, -SHIFT), slice(SHIFT, -SHIFT))
        assert torch.equal(view[inner], rolled[inner])


def test_flipping_twice_gives_the_image_back():
    flip, images, numbers = Augmentation(flip=True), torch.rand(40, 3, 5, WIDTH), torch.arange(40)
    once = flip(images, 3, numbers)
    assert torch.equal(flip(once, 3, numbers), images)
    same = (once == images).flatten(1).all(1)
    assert 0 < same.sum() < 40
    assert torch.equal(once[~same], images[~same].flip(-1))


def test_every_view_comes_equally_often():
    counts: dict[tuple[bool, int, int], int] = {}
    for view in views(Augmentation(flip=True, shift=SHIFT), 20_000):
        how = told(view)
        counts[how] = counts.get(how, 0) + 1
    assert len(counts) == 2 * 5 * 5
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_turning_the_flip_on_leaves_the_shifts_as_they_are():
    both, shift = (views(Augmentation(flip=flip, shift=SHIFT), 50) for flip in (True, False))
    assert [told(view)[1:] for view in both] == [told(view)[1:] for view in shift]


def test_views_are_made_where_the_images_lie_and_nothing_is_fetched():
    raw, numbers = tagged(9, dtype=torch.uint8).to("meta"), torch.arange(9).to("meta")  # which has no values to fetch
    made = Augmentation(flip=True, shift=SHIFT)(raw, 1, numbers)
    assert (made.device.type, made.dtype, made.shape) == ("meta", raw.dtype, raw.shape)


def images(augment: Augmentation | None, num: int = 30, **options: object) -> Dataset:
    raw = tagged(num, dtype=torch.float32)
    return Dataset("tiny", "tagged", raw, raw[:8], raw[:7], augment=augment, **options)


def by_number(data: Dataset, size: int, epoch: int, seed: int = 0, **options: object) -> dict[int, torch.Tensor]:
    batches = data.batches("train", size, seed=seed, numbered=True, position=lambda: (epoch, 0), **options)
    return {n: x for batch in batches for n, x in zip(batch.rows.tolist(), batch.x, strict=True)}


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_view_is_a_function_of_seed_epoch_and_datapoint():
    data = images(Augmentation(flip=True, shift=SHIFT))
    views = by_number(data, 8, epoch=1)
    assert same(views, by_number(data, 30, epoch=1)), "depends on the size of batches"
    ranks = [by_number(data, 4, epoch=1, rank=rank, world_size=2) for rank in (0, 1)]
    assert same(views, ranks[0] | ranks[1]), "depends on the number of processes"
    elsewhere = replace(data, train=pv.data.Mapped(data.train.numpy()), num_workers=2)
    assert same(views, by_number(elsewhere, 8, epoch=1)), "depends on where the images lie"
    assert not same(views, by_number(data, 8, epoch=2))
    assert not same(views, by_number(data, 8, epoch=1, seed=1))
    assert len({view.numpy().tobytes() for view in views.values()}) > 10


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
def test_only_training_batches_are_augmented(binarize):
    pixels = torch.randint(0, 256, (60, 1, 5, WIDTH), dtype=torch.uint8)
    plain = Dataset("tiny", "random", pixels[:40], pixels[40:50], pixels[50:], binarize)
    data = replace(plain, augment=Augmentation(flip=True, shift=SHIFT))
    for split in pv.data.SPLITS:
        assert torch.equal(data.take(split)[0], plain.take(split)[0])
        ordered = [torch.cat(list(d.in_order(split, 7))) for d in (data, plain)]
        assert torch.equal(*ordered)
        batches = [torch.cat(list(d.batches(split, 7))) for d in (data, plain)]
        assert torch.equal(*batches) == (split != "train")


def test_off_is_the_very_same_tensor():
    raw = tagged(9)
    off = Augmentation()
    assert off(raw, 0, torch.arange(9)) is raw
    assert not off
    assert images(None).augment is None


def test_what_cannot_be_augmented_is_refused():
    vectors = torch.rand(9, 6)
    with pytest.raises(DataError, match=r"augment is for images \(C, H, W\), and x is \(6,\); leave dataset.augment"):
        Dataset("tiny", "random", vectors, vectors, vectors, augment=Augmentation(flip=True))
    with pytest.raises(DataError, match="augment.shift 5 is no less than the images' 5 x 7 pixels; lower it"):
        images(Augmentation(shift=5))
    with pytest.raises(DataError, match="augment.shift must be >= 0, got -1"):
        Augmentation(shift=-1)


MNIST = {"name": "mnist", "source": "embedded"}


def test_yaml(monkeypatch):
    tiny = images(None)
    monkeypatch.setitem(pv.config.COMPONENTS["dataset"], "mnist", lambda *, source="auto": tiny)
    config = check(
        {"dataset": {**MNIST, "augment": {"flip": True}, "num_workers": 3}, "model": {"likelihood": "normal"}}
    )
    data = build_data(config)
    assert data.augment == Augmentation(flip=True, shift=0)
    assert data.num_workers == 3
    assert "augment:" in to_yaml(config)
    for off in (None, False, {}):
        config = check({"dataset": {**MNIST, "augment": off}, "model": {"likelihood": "normal"}})
        assert build_data(config).augment is None
    assert check({"dataset": MNIST}).dataset.augment is None


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        ({"spin": 1}, "dataset.augment.spin: unknown key (value 1); valid: type, flip, shift"),
        ({"shift": -1}, "dataset.augment.shift: must be >= 0, got -1"),
        (True, "dataset.augment: say what: {flip: true, shift: 2}, got True"),
    ],
)
def test_yaml_errors(augment, line):
    with pytest.raises(ConfigError) as error:
        check({"dataset": {**MNIST, "augment": augment}})
    assert str(error.value) == line


def test_a_warm_start_from_another_view_is_refused():
    values = {"dataset": {**MNIST, "augment": {"flip": True}}, "guide": "svi", "train": {"warm_start": True}}
    with pytest.raises(
        ConfigError,
        match="train.warm_start: mnist is augmented in each epoch, and each view would start at the λ of another",
    ):
        build_data(check(values))


def test_a_run_keeps_its_augmentation(tmp_path, monkeypatch, capsys):
    plain, other = (check({"dataset": {**MNIST, "augment": augment}}) for augment in (None, {"flip": True}))
    run = RunFolder(tmp_path)
    run.write(plain)
    with pytest.raises(ConfigError, match=r"dataset.augment: cannot change on resume, from None to {.*'flip': True"):
        run.change(other)
    run.change(plain)
    pixels = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    tiny = Dataset("mnist", "random", pixels[:10], pixels[10:15], pixels[15:], "dynamic")
    trained = Trained(None, None, plain, (1, 28, 28))
    monkeypatch.setattr("pyrovae.runs.load.load", lambda *_, **__: trained)
    monkeypatch.setattr("pyrovae.runs.load.build_data", lambda _: tiny)
    open_run(tmp_path, overrides=["dataset.augment.flip=true"])
    assert "dataset.augment was None, is {" in capsys.readouterr().err
