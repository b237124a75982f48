"""Patches of natural images: what filters do, and where patches are cut."""

import socket

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from pyrovae.config import ConfigError, build_data, check
from pyrovae.data import ContrastNormalization, DataError, Held, Mapped, NaturalPatches, Rows
from pyrovae.data.natural_patches import Patches, intensities, local_contrast, olshausen_field

CUTOFF = 0.39
STEP = np.repeat([[0.0, 1.0]], 64, 0).repeat(32, 1)  # (64, 64), an edge in the middle


def gain(f: np.ndarray | float) -> np.ndarray:
    return f * np.exp(-((f / CUTOFF) ** 4))


# Filters.


@pytest.mark.parametrize(("down", "across"), [(0, 1), (5, 0), (12, 9), (31, 40)])
def test_a_cosine_comes_out_scaled_by_the_gain_at_its_frequency(down, across):
    height, width = 32, 48
    v, u = np.mgrid[:height, :width] + 0.5
    image = np.cos(np.pi * down * v / height) * np.cos(np.pi * across * u / width)
    f = np.hypot(down / (2 * height), across / (2 * width))
    np.testing.assert_allclose(olshausen_field(image, CUTOFF), gain(f) * image, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.2])
@pytest.mark.parametrize("f", [0.1, 0.25, 0.4])
def test_so_does_a_plane_wave_of_any_direction_and_phase_away_from_borders(f, angle):
    v, u = np.mgrid[:128, :128]
    wave = np.sin(2 * np.pi * f * (np.cos(angle) * u + np.sin(angle) * v) + 1)
    inside = (slice(32, 96), slice(32, 96))
    np.testing.assert_allclose(olshausen_field(wave, CUTOFF)[inside], gain(f) * wave[inside], atol=0.01 * gain(f))


def test_the_mean_is_removed_and_nothing_wraps_around():
    image = np.random.default_rng(0).random((24, 40))
    np.testing.assert_allclose(olshausen_field(np.full((24, 40), 3.0)), 0, atol=1e-12)
    np.testing.assert_allclose(olshausen_field(image + 7), olshausen_field(image), atol=1e-12)
    response = np.abs(olshausen_field(STEP))
    assert response[:, 31:33].min() == pytest.approx(response.max())
    assert response[:, [0, -1]].max() < 0.05 * response.max(), "the right border is no edge beside the left one"


def test_noise_with_a_spectrum_of_one_over_f_becomes_flat_up_to_the_cutoff():
    rng, size, half = np.random.default_rng(0), 128, 64
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    f[0, 0] = np.inf
    window = np.hanning(half)[:, None] * np.hanning(half)
    cut = np.hypot(np.fft.fftfreq(half)[:, None], np.fft.fftfreq(half))
    power = {"before": 0.0, "after": 0.0}
    for _ in range(60):
        noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / f).real
        for name, image in {"before": noise, "after": olshausen_field(noise, CUTOFF)}.items():
            power[name] = power[name] + np.abs(np.fft.fft2(window * image[32:96, 32:96])) ** 2
    bands = [(cut >= a) & (cut < a + 0.04) for a in np.arange(0.04, 0.44, 0.04)]
    before, after = (np.array([power[name][band].mean() for band in bands]) for name in ("before", "after"))
    expected = np.array([np.exp(-2 * (cut[band] / CUTOFF) ** 4).mean() for band in bands])
    assert before[0] / before[4] > 10
    np.testing.assert_allclose(after / after[0], expected / expected[0], rtol=0.07)


def test_intensities():
    grey, light, log = (intensities(kind) for kind in ("grey", "linear", "log"))
    for values in (grey, light, log):
        assert values.dtype == np.float32
        assert (values[0], values[255]) == (0, 1)
        assert (np.diff(values) > 0).all()
    assert light[188] == pytest.approx(0.5, abs=0.005)  # the well-known middle of sRGB
    assert light[10] == pytest.approx(10 / 255 / 12.92, rel=1e-5)
    np.testing.assert_allclose(256 ** log.astype(float), 1 + 255 * light.astype(float), rtol=1e-5)


def test_local_contrast_knows_neither_brightness_nor_contrast_of_the_whole():
    image = np.random.default_rng(0).random((40, 30))
    result = local_contrast(image)
    np.testing.assert_allclose(local_contrast(5 * image - 3), result, atol=1e-9)
    np.testing.assert_allclose(local_contrast(np.full((40, 30), 0.7)), 0, atol=1e-6)
    response = np.abs(local_contrast(STEP))
    assert response[:, [0, -1]].max() < 0.05 * response.max(), "nothing wraps around"


def test_local_contrast_makes_halves_of_unlike_contrast_alike():
    noise = np.random.default_rng(0).standard_normal((160, 160))
    noise[:, 80:] *= 3
    result = local_contrast(noise, surround=3.0)
    left, right = result[:, :60].std(), result[:, 100:].std()
    assert right == pytest.approx(1, abs=0.05)  # σ is its own
    assert left == pytest.approx(0.5, abs=0.05)  # σ̄ = (1 + 3) / 2 is above its own


# Where patches are cut.


def places_of_pixels(num: int = 3) -> torch.Tensor:
    """Images (num, 1, 16, 16) whose pixels say where they are: 256 · image + 16 · row + column."""
    return torch.arange(num * 256, dtype=torch.int16).view(num, 1, 16, 16)


def patches(images: Rows | torch.Tensor, num: int = 500, size: int = 4, **options: object) -> Patches:
    rows = images if isinstance(images, Rows) else Held(images)
    how = {"key": 1, "anew": True, "min_variance": 0.0, "preprocess": torch.Tensor.float, **options}
    return Patches(rows, torch.arange(len(rows)), num, size, **how)


def test_patches_are_blocks_of_images():
    got = patches(places_of_pixels()).read(torch.arange(500))
    corner = got[:, :, :1, :1]
    assert torch.equal(got, corner + 16 * torch.arange(4)[:, None] + torch.arange(4))
    assert (corner % 16 <= 12).all()
    assert (corner % 256 // 16 <= 12).all()


def test_every_place_of_every_image_is_as_likely():
    num = 3 * 13 * 13 * 40
    corners = patches(places_of_pixels(), num).read(torch.arange(num))[:, 0, 0, 0].long()
    counts = corners.bincount(minlength=768).view(3, 16, 16)[:, :13, :13].flatten()
    assert counts.sum() == num
    assert (counts > 0).all()
    assert chisquare(counts).pvalue > 1e-3


def test_only_the_images_named_are_cut():
    rows = Patches(
        Held(places_of_pixels(5)), torch.tensor([3, 1]), 400, 4, key=0, anew=False, min_variance=0, preprocess=torch.abs
    )
    assert set((rows.read(torch.arange(400))[:, 0, 0, 0] // 256).tolist()) == {1, 3}


def test_other_places_in_each_epoch_but_only_if_asked():
    numbers = torch.arange(50)
    anew, kept = patches(places_of_pixels()), patches(places_of_pixels(), anew=False)
    assert not torch.equal(anew.read(numbers, 0), anew.read(numbers, 1))
    assert torch.equal(anew.read(numbers, 1), anew.read(numbers, 1))
    assert torch.equal(kept.read(numbers, 1), anew.read(numbers, 0))
    assert not torch.equal(patches(places_of_pixels(), key=2).read(numbers), anew.read(numbers))


class Elsewhere(Rows):
    """Rows that give whole images only."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.shape, self.dtype = values, tuple(values.shape), values.dtype

    def read(self, numbers: torch.Tensor, epoch: int = 0) -> torch.Tensor:
        return self.values[numbers]


def test_patches_are_the_same_wherever_images_lie(tmp_path):
    images, numbers = places_of_pixels(), torch.tensor([7, 0, 499, 7])
    np.save(tmp_path / "images.npy", images.numpy())
    held = patches(images).read(numbers, 2)
    for rows in (Mapped(np.load(tmp_path / "images.npy", mmap_mode="r")), Elsewhere(images)):
        assert torch.equal(patches(rows).read(numbers, 2), held)


def test_the_first_place_with_variance_enough_is_taken_or_else_the_one_with_most():
    images = torch.zeros(1, 1, 40, 40)
    images[..., 28:, 28:] = torch.rand(12, 12)
    rows = patches(images, 300, 6, min_variance=0.05)
    got = rows.read(torch.arange(300), 1)
    fell_back = 0
    for row, spots in zip(got[:, 0], rows.places(torch.arange(300), 1).tolist(), strict=True):
        cut = [images[0, 0, top : top + 6, left : left + 6] for _, top, left in spots]
        variances = [one.var(correction=0).item() for one in cut]
        first = next((k for k, value in enumerate(variances) if value >= 0.05), None)
        fell_back += first is None
        assert torch.equal(row, cut[variances.index(max(variances)) if first is None else first])
    assert 10 < fell_back < 290
    assert torch.equal(rows.read(torch.tensor([200, 3]), 1), got[[200, 3]])


# The data set.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures of one grey each, 10 · number."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(20):
        Image.fromarray(np.full((20, 24 + i), 10 * i, np.uint8)).save(path / f"{i:02}.png")
    return path


def tiny(folder: object, **options: object) -> object:
    sizes = {"patch_size": 4, "image_size": 16, "num_train": 200, "num_val": 100, "num_test": 100, "num_workers": 0}
    return NaturalPatches(source="folder", root=str(folder), **{**sizes, **options})


def test_no_image_gives_patches_to_two_splits(folder):
    data = tiny(folder, filter="none", intensity="grey", val_fraction=0.2, test_fraction=0.01)
    seen = [set((data.take(split)[0] * 255).round().unique().int().tolist()) for split in ("train", "val", "test")]
    assert [len(levels) for levels in seen] == [15, 4, 1]
    assert set.union(*seen) == {10 * i for i in range(20)}
    assert "20 pictures" in data.source
    assert "(15 in train, 4 in val, 1 in test)" in data.source


@pytest.mark.parametrize("cache", [True, False])
def test_nor_where_some_are_damaged(folder, tmp_path, cache):
    for i, file in enumerate(sorted(folder.iterdir())):
        (tmp_path / file.name).write_bytes(b"no picture" if i % 3 == 0 else file.read_bytes())
    data = tiny(
        tmp_path, filter="none", intensity="grey", val_fraction=0.3, test_fraction=0.3, on_bad="skip", cache=cache
    )
    seen = [set((data.take(split)[0] * 255).round().unique().int().tolist()) for split in ("train", "val", "test")]
    assert sum(map(len, seen)) == 13
    assert set.union(*seen) == {10 * i for i in range(20) if i % 3}


@pytest.mark.parametrize("val", ["val", None])
def test_folders_of_splits_are_the_splits(folder, tmp_path, val):
    own = {"train": range(12), "val": range(12, 15), "test": range(15, 20)}
    for split, numbers in own.items():
        (tmp_path / (split if val or split != "val" else "train")).mkdir(exist_ok=True)
        for i in numbers:
            to = tmp_path / (split if val or split != "val" else "train") / f"{i}.png"
            to.write_bytes((folder / f"{i:02}.png").read_bytes())
    data = tiny(tmp_path, filter="none", intensity="grey", val_fraction=0.2)
    seen = {split: {*(data.take(split)[0] * 255).round().unique().int().tolist()} for split in own}
    assert seen["test"] == {10 * i for i in own["test"]}
    if val:
        assert seen["train"] == {10 * i for i in own["train"]}
        assert seen["val"] == {10 * i for i in own["val"]}
    else:
        assert len(seen["val"]) == 3, "of 15 training pictures"
        assert seen["train"] | seen["val"] == {10 * i for i in range(15)}
    assert "(12 in train, 3 in val, 5 in test)" in data.source
    Image.new("L", (30, 30)).save(tmp_path / "beside.png")
    with pytest.raises(DataError, match=r"^NaturalPatches: .* has folder train, and .*beside.png beside it; move one"):
        tiny(tmp_path)


@pytest.mark.parametrize("min_variance", [0.0, 1e-4])
@pytest.mark.parametrize("cache", [True, False])
def test_groups_have_the_number_of_each_patchs_picture(tmp_path, min_variance, cache):
    """Half of each picture is of one grey; the other is noise around it."""
    rng = np.random.default_rng(0)
    for i in range(10):
        noise = rng.integers(-4, 5, (16, 16)) * (np.arange(16) < 8)
        Image.fromarray((20 + 20 * i + noise).astype(np.uint8)).save(tmp_path / f"{i}.png")
    data = tiny(tmp_path, filter="none", intensity="grey", min_variance=min_variance, cache=cache)
    assert sorted(data.groups) == ["test", "train", "val"]
    assert data.groups.get("elsewhere") is None
    assert data.normalized(ContrastNormalization()).groups is data.groups
    for split in ("train", "val", "test"):
        x, groups = data.take(split)[0], data.groups[split]
        assert groups.dtype == torch.int64
        greys = ((x.flatten(1).median(1).values * 255 - 20) / 20).round().long()
        assert torch.equal(groups, greys)
        assert len(groups.unique()) == {"train": 6, "val": 2, "test": 2}[split]


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    path = tmp_path_factory.mktemp("textures")
    for i in range(8):
        values = np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(values).save(path / f"{i}.png")
    return path


@pytest.mark.parametrize("filter", ["none", "olshausen_field", "local_contrast"])
def test_x_is_a_function_of_seed_epoch_and_number(textures, filter):
    data = tiny(textures, filter=filter, min_variance=0.05)
    val = torch.cat(list(data.batches("val", 7)))
    assert torch.equal(val, data.take("val")[0])
    assert torch.equal(val, torch.cat(list(tiny(textures, filter=filter, min_variance=0.05).batches("val", 30))))
    assert torch.equal(data.take("train", 30)[0], next(iter(data.in_order("train", 30))))
    epochs = []
    for epoch, batch_size, workers, cache in ((0, 7, 0, True), (0, 60, 2, True), (0, 70, 0, False), (1, 7, 0, True)):
        other = tiny(textures, filter=filter, min_variance=0.05, num_workers=workers, cache=cache)
        seen = list(other.batches("train", batch_size, numbered=True, position=lambda epoch=epoch: (epoch, 0)))
        order = torch.cat([batch.rows for batch in seen]).argsort()
        epochs.append(torch.cat([batch.x for batch in seen])[order])
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[3])
    assert not torch.equal(tiny(textures, filter=filter, min_variance=0.05, seed=1).take("val")[0], val)


def test_intensity_of_unfiltered_patches_is_looked_up(textures):
    grey, light = (tiny(textures, filter="none", intensity=kind) for kind in ("grey", "linear"))
    assert light.train.dtype == torch.uint8
    pixels = (grey.take("val")[0] * 255).round().long()
    assert torch.equal(light.take("val")[0], torch.from_numpy(intensities("linear"))[pixels])


@pytest.mark.parametrize("intensity", ["grey", "linear", "log"])
def test_images_are_filtered_as_asked(textures, intensity):
    pixels = tiny(textures, filter="none").train.images.read(torch.arange(8))[:, 0].numpy()
    values = intensities(intensity)[pixels]
    for filter, act, how in (
        ("olshausen_field", olshausen_field, {"cutoff": 0.2}),
        ("local_contrast", local_contrast, {"surround": 1.5}),
    ):
        got = tiny(textures, filter=filter, intensity=intensity, **how).train.images.read(torch.arange(8))[:, 0]
        np.testing.assert_allclose(got, np.stack([act(one, **how) for one in values]), atol=1e-3, rtol=1e-3)


def test_filtered_training_images_have_variance_one_and_others_do_not_count(textures, tmp_path):
    for file in textures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = tiny(tmp_path)
    train, val = before.take("train")[0], before.take("val")[0]
    x = before.preprocess(before.train.images.read(before.train.numbers))
    assert x.square().mean().item() == pytest.approx(1, abs=1e-5)
    assert x.mean().item() == pytest.approx(0, abs=1e-3)
    for number in [*before.val.numbers.tolist(), *before.test.numbers.tolist()]:
        Image.fromarray(np.full((20, 20), 77, np.uint8)).save(sorted(tmp_path.iterdir())[number])
    after = tiny(tmp_path)
    assert torch.equal(after.take("train")[0], train)
    assert not torch.equal(after.take("val")[0], val)


def test_photographs_are_there_without_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("went to the network"))
    block = {"name": "natural_patches", "num_train": 600, "num_val": 100, "num_test": 100}
    data = build_data(check({"dataset": {**block, "normalize": "zca"}, "model": {"likelihood": "normal"}}))
    assert data.x_shape == (1, 16, 16)
    assert "12 photographs inside scikit-image and scikit-learn (8 in train, 2 in val, 2 in test)" in data.source
    assert [len(getattr(data, split)) for split in ("train", "val", "test")] == [600, 100, 100]
    assert data.take("train")[0].isfinite().all()


def test_patches_that_change_cannot_start_where_they_were_left():
    block = {"name": "natural_patches", "num_train": 10, "num_val": 10, "num_test": 10}
    with pytest.raises(ConfigError, match="train.warm_start: natural_patches is cut anew in each epoch"):
        build_data(check({"dataset": block, "train": {"warm_start": True}, "model": {"likelihood": "normal"}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "is only 20 pixels high or wide; lower dataset.image_size 30"),
        ({"patch_size": 17, "filter": "none"}, "patch_size 17 does not fit into images of 16 x 16; lower it"),
        ({"root": None}, "source folder needs one; set dataset.root"),
        ({"root": "nowhere"}, r"nowhere \(dataset.root\) does not exist; name a folder"),
        ({"source": "photographs"}, r"dataset.root .* is for source folder; set dataset.source: folder"),
        ({"val_fraction": 0.99}, "leaves nothing of 20 datapoints to train on"),
    ],
)
def test_what_cannot_be_is_refused(folder, options, message):
    settings = {"source": "folder", "root": str(folder), "image_size": 16, "patch_size": 4, **options}
    with pytest.raises(DataError, match=message):
        NaturalPatches(**settings)


def test_settings_of_filters_are_refused_where_they_mean_nothing():
    with pytest.raises(DataError, match="cutoff must be > 0 cycles a pixel, got 0"):
        olshausen_field(np.zeros((4, 4)), 0)
    with pytest.raises(DataError, match="surround must be > 0 pixels, got -1"):
        local_contrast(np.zeros((4, 4)), -1)


def test_settings_that_leave_nothing_are_refused():
    with pytest.raises(DataError, match=r"dataset.filter leaves nothing of the images; raise dataset.cutoff"):
        NaturalPatches(cutoff=1e-3, image_size=32, num_train=9, num_val=9, num_test=9)


def test_an_empty_share_of_patches(recwarn):
    data = NaturalPatches(min_variance=0.1, image_size=32, num_train=9, num_val=2, num_test=9)
    assert [len(x) for x in data.batches("val", 1, rank=2, world_size=3)] == [0]
    assert not recwarn


def test_a_variance_that_no_patch_has_is_refused():
    above = r"dataset.min_variance 1e\+09 is above that of every patch looked at, .* at most; lower it"
    with pytest.raises(DataError, match=above):
        NaturalPatches(min_variance=1e9, image_size=32, num_train=9, num_val=9, num_test=9)
