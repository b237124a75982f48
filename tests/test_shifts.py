"""Data from elsewhere."""

import numpy as np
import pytest
import torch

from pyrovae.data import SHIFTS, Centering, DataError, Dataset, Scaled, noised, occluded, rotated
from pyrovae.data.shifts import can_shift, shifted


def grey(count: int = 6, shape: tuple[int, ...] = (1, 28, 28)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 255, (count, *shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 16)])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_keeps_the_kind_of_images_and_repeats(name, shape):
    images = grey(shape=shape)
    before = images.clone()
    result = SHIFTS[name](images)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    assert torch.equal(images, before), "the images given are left alone"
    assert torch.equal(result, SHIFTS[name](images))
    assert (result != images).flatten(1).any(1).all()
    assert torch.equal(result[:2], SHIFTS[name](images[:2])), "an image's shift does not depend on those after it"


def test_a_quarter_turn_is_exact_and_turns_counter_clockwise():
    images = grey()
    assert torch.equal(rotated(images, 90), torch.rot90(images, 1, (-2, -1)))
    assert torch.equal(rotated(images, 0), images)


@pytest.mark.parametrize("paper", [255, 0, 90])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_comes_in_has_the_grey_of_the_images_own_border(paper, channels):
    images = torch.full((4, channels, 21, 28), paper, dtype=torch.uint8)
    images[:, :, 5:15, 5:15] = 17
    images[1:, 0] //= 2  # another paper, of another colour
    borders = images[:, :, :1, :1]
    turned = rotated(images, 45)
    for corner in (turned[:, :, 0, 0], turned[:, :, -1, 0], turned[:, :, 0, -1], turned[:, :, -1, -1]):
        assert torch.equal(corner, borders[:, :, 0, 0])
    assert (turned == 17).any()
    assert torch.equal(occluded(images, 1.0), borders.expand_as(images))
    images[:, :, 0, 7] = 200  # a stroke that crosses the border
    assert torch.equal(rotated(images, 45)[:, :, -1, -1], borders[:, :, 0, 0])


def test_noise_hits_so_many_pixels_half_of_them_white():
    images = grey(40, (3, 28, 28))
    result = noised(images, 0.2)
    hit = (result == 0) | (result == 255)  # no grey value is either
    assert torch.equal(result[~hit], images[~hit])
    assert torch.equal(hit, hit[:, :1].expand_as(hit)), "all channels alike"
    count = 40 * 28 * 28
    pixels = hit[:, 0].sum().item()
    assert abs(pixels - 0.2 * count) < 5 * (0.2 * 0.8 * count) ** 0.5
    white = (result[:, 0] == 255).sum().item()
    assert abs(white - pixels / 2) < 5 * (pixels / 4) ** 0.5
    assert torch.equal(noised(images, 0.0), images)
    assert not torch.equal(result, noised(images, 0.2, seed=1))
    assert not torch.equal(hit[0], hit[1]), "each image has noise of its own"


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_block_of_that_area_hides_part_of_each_image(fraction):
    images = grey(50)
    hidden = occluded(images, fraction, grey=0) != images
    areas = hidden.flatten(1).sum(1)
    assert (areas == areas[0]).all(), "the block lies wholly inside"
    assert abs(areas[0].item() / 28**2 - fraction) < 0.5 / 28 + 1e-9
    for image in hidden[:, 0] if fraction > 0 else []:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) * len(columns) == image.sum()
    if fraction in (0.1, 0.25, 0.5):
        assert len({tuple(image.nonzero()[0].tolist()) for image in hidden[:, 0]}) > 5, "places differ"
    assert (occluded(images, 1.0, grey=128) == 128).all()


def test_only_the_test_images_are_shifted():
    images, labels = grey(), {split: torch.arange(6) for split in ("train", "val", "test")}
    data = Dataset("toy", "toy", images, images, images, "dynamic", labels=labels, class_names=tuple("abcdef"))
    result = shifted(data, "rotated", degrees=90)
    assert torch.equal(result.train, images)
    assert torch.equal(result.val, images)
    assert torch.equal(result.test, torch.rot90(images, 1, (-2, -1)))
    assert all(torch.equal(result.labels[split], labels[split]) for split in labels)
    assert (result.class_names, result.binarize, result.x_shape) == (data.class_names, "dynamic", data.x_shape)
    assert result.source == "toy, test images rotated (degrees 90)"
    assert data.source == "toy"


def test_what_is_known_of_fewer_test_images_stays():
    groups, images = {split: torch.arange(6) // 2 for split in ("train", "test")}, grey()
    parts = [torch.arange(6).flip(0)[i::3] for i in range(3)]
    for data in (
        Dataset("toy", "toy", images, images, images, groups=groups, covariates={"test": {"speed": torch.arange(6.0)}}),
        Dataset.parted("toy", "toy", images, parts, covariates={"speed": np.arange(6.0)}),
    ):
        result = shifted(data, "noised", num=1)
        assert result.covariates["test"]["speed"][:] == data.covariates["test"]["speed"][:1]
        assert result.origin("test").tolist() == data.origin("test")[:1].tolist()
        assert [len(of) for of in result.groups.values()] in ([6, 1], [])


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("bent", {}, "shift must be one of noised, occluded, rotated, got 'bent'"),
        ("noised", {"amount": 1.5}, r"amount must be in \[0, 1\], got 1.5"),
        ("occluded", {"fraction": -0.1}, r"fraction must be in \[0, 1\], got -0.1"),
        ("occluded", {"grey": 256}, "grey must be in 0 ... 255, got 256"),
        ("rotated", {"degrees": float("nan")}, "degrees must be finite, got nan"),
        ("rotated", {"angle": 3}, "rotated: .*unexpected keyword argument 'angle'"),
    ],
)
def test_what_cannot_be_is_refused(name, how, message):
    data = Dataset("toy", "toy", grey(), grey(), grey())
    with pytest.raises(DataError, match=message):
        shifted(data, name, **how)


def test_other_images_are_refused():
    with pytest.raises(DataError, match=r"images must be uint8 \(N, C, H, W\), got torch.float32"):
        noised(grey().float())


def test_a_shift_is_no_data_set_of_a_configuration():
    from pyrovae.config import COMPONENTS

    assert not {"shifted", *SHIFTS} & COMPONENTS["dataset"].keys()


def test_only_eight_bit_images_can_be_shifted():
    real = grey().float()
    assert can_shift(Dataset("toy", "toy", grey(), grey(), grey()))
    for raw in (real, grey().flatten(1)):
        data = Dataset("toy", "toy", raw, raw, raw)
        assert not can_shift(data)
        with pytest.raises(DataError, match="rotated: toy has torch.* not 8-bit images; leave shifts out"):
            shifted(data, "rotated")


@pytest.mark.parametrize(("scale", "pixels"), [(255.0, True), (1.0, False)])
def test_pixels_can_be_shifted_and_counts_cannot_also_when_normalized(scale, pixels):
    data = Dataset("toy", "toy", grey(), grey(), grey(), preprocess=Scaled(scale))
    assert can_shift(data) == can_shift(data.normalized(Centering())) == pixels
