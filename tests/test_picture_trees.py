"""Pictures of many kinds, in trees of many shapes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.config import COMPONENTS
from pyrovae.data import SUN397, DataError, ImageFolder
from pyrovae.data.image_folders import picture_files, read_picture

SPLITS = ("train", "val", "test")


def save(path: Path, grey: int = 0, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), grey, np.uint8)).save(path)
    return path


def sizes(data) -> list[int]:
    return [len(data.rows(split)) for split in SPLITS]


def greys(data, split) -> list[int]:
    """The centre of each picture."""
    return (data.take(split)[0][:, 0, 4, 4] * 255).round().int().tolist()


# One picture


def pixels(file: Path, **how) -> np.ndarray:
    return read_picture(file, **{"image_size": 8, "color": "rgb", **how})


RAMP = np.tile(np.arange(0, 256, 32, dtype=np.uint8), (8, 1))  # (8, 8), brighter to the right
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 100)], -1)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", Image.fromarray(RAMP)),
        ("16 bit.png", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("16 bit.tif", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("16 bit big endian.pgm", None),
        ("palette.gif", Image.fromarray(RAMP).convert("P")),
        ("palette.PNG", Image.fromarray(RAMP).convert("P")),
        ("alpha.png", Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (8, 8), 9)])),
        ("rgba.webp", None),
        ("upper case.JPG", None),
        ("bitmap.bmp", Image.fromarray(RAMP).convert("RGB")),
    ],
)
def test_grey_of_every_kind(tmp_path, name, image):
    file, near = tmp_path / name, 0
    if name.endswith("pgm"):
        file.write_bytes(b"P5 8 8 65535\n" + (RAMP.astype(">u2") * 257).tobytes())
    elif image is None:
        rgba = np.concatenate([np.repeat(RAMP[..., None], 3, -1), np.full((8, 8, 1), 255, np.uint8)], -1)
        near = 3
        if name.endswith("webp"):
            Image.fromarray(rgba).save(file, lossless=True)
        else:
            Image.fromarray(rgba[..., :3]).save(file, "JPEG", quality=100, subsampling=0)
    else:
        image.save(file)
    for color, channels in (("rgb", 3), ("grey", 1)):
        read = pixels(file, color=color)
        assert read.shape == (channels, 8, 8)
        assert read.dtype == np.uint8
        assert np.abs(read.astype(int) - RAMP).max() <= near


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (RAMP.astype(np.float32) / 255, "floats"),
        (RAMP.astype(np.int32), "signed or 32-bit values"),
        (RAMP.astype(np.int32) * 257, "signed or 32-bit values"),
    ],
)
def test_values_whose_white_nobody_knows_do_not_go_black(tmp_path, values, what):
    Image.fromarray(values).save(tmp_path / "x.tif")
    message = f"x.tif holds {what}; save it with 8 or 16 bits, or as an array for data set arrays$"
    with pytest.raises(DataError, match=message):
        pixels(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_colours(tmp_path, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    for name, options in (("x.tif", {}), ("x.jpg", {"quality": 100, "subsampling": 0})):
        image.save(tmp_path / name, **options)
        assert np.abs(pixels(tmp_path / name).transpose(1, 2, 0).astype(int) - COLOURS).max() <= 4


@pytest.mark.parametrize(
    ("name", "values"),
    [("x.jpg", RAMP), ("x.tif", RAMP.astype(np.uint16) * 257), ("x.png", RAMP.astype(np.uint16) * 257)],
)
@pytest.mark.parametrize(("tag", "turned"), [(3, np.rot90(RAMP, 2)), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP))])
def test_an_orientation_tag_is_obeyed(tmp_path, name, values, tag, turned):
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"quality": 100} if name.endswith("jpg") else {}
    Image.fromarray(values).save(tmp_path / name, exif=exif, **options)
    assert np.abs(pixels(tmp_path / name)[0].astype(int) - turned).max() <= 2


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (3, 500)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_thin_pictures(tmp_path, shape, crop):
    for name in ("x.png", "x.jpg"):
        Image.fromarray(np.full(shape, 200, np.uint8)).save(tmp_path / name)
        assert pixels(tmp_path / name, crop=crop).shape == (3, 8, 8)
        assert np.abs(pixels(tmp_path / name, crop=crop).astype(int) - 200).max() <= 1


def test_scaled_and_cropped_without_distortion(tmp_path):
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = 255  # the central square
    Image.fromarray(picture).save(tmp_path / "x.jpg", quality=100)
    assert pixels(tmp_path / "x.jpg", crop="center")[..., 1:-1].min() > 245
    squeezed = pixels(tmp_path / "x.jpg", image_size=12, crop="none")[0, 6]
    assert (squeezed > 128).tolist() == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize("content", [b"", b"no picture", "cut", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0"])
def test_damaged_pictures(tmp_path, content):
    file = tmp_path / "x.jpg"
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(file)
        content = file.read_bytes()[:-400]
    file.write_bytes(content)
    known = content and content[:2] == b"\xff\xd8" and len(content) > 4
    reason = "image file is truncated" if known else "not a format that Pillow knows"
    with pytest.raises(DataError, match=rf"^cannot read .*x.jpg \({reason}.*\); mend or remove it$"):
        pixels(file)


# Trees


def test_what_is_listed(tmp_path):
    for name in ("b/x.jpg", "b/Y.JPEG", "b-c/x.png", "b/d/z.tif", ".hidden/x.jpg", "b/.x.jpg", "a.jpg"):
        save(tmp_path / "tree" / name)
    for name in ("b/notes.txt", "Thumbs.db"):
        (tmp_path / "tree" / name).touch()
    (tmp_path / "tree" / "b" / "round").symlink_to(tmp_path / "tree")
    save(tmp_path / "other" / "l.jpg")
    (tmp_path / "tree" / "c").symlink_to(tmp_path / "other")
    tree = tmp_path / "tree"
    found = picture_files(tree)
    names = ["a.jpg", "b/Y.JPEG", "b/d/z.tif", "b/x.jpg", "b-c/x.png", "c/l.jpg"]
    assert [f.relative_to(tree).as_posix() for f in found] == names
    assert found == sorted(found)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    save(tmp_path / "tree" / "a" / "x.jpg")
    list_folder = os.scandir

    def refuse(folder):
        if str(folder).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root
    with pytest.raises(PermissionError):
        picture_files(tmp_path / "tree")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A tree of SUN397's shape: nested classes, odd sizes, grey, CMYK and 16-bit files, an upper-case extension."""
    root, generator = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for i, folder in enumerate(["a/abbey", "o/outdoor/church", "o/outdoor/bazaar"]):
        (root / folder).mkdir(parents=True)
        for j in range(8):
            mode = ["RGB", "L", "CMYK"][j % 3]
            shape = (40 + j, 61 - i, {"RGB": 3, "L": 1, "CMYK": 4}[mode])
            image = Image.fromarray(generator.integers(0, 256, shape, np.uint8).squeeze(), mode)
            image.save(root / folder / f"sun_{j}.{'JPG' if j == 3 else 'jpg'}")
    Image.fromarray(generator.integers(0, 2**16, (50, 70), np.uint16)).save(root / "a" / "abbey" / "sun_8.png")
    return root


@pytest.mark.parametrize(("color", "channels"), [("grey", 1), ("rgb", 3)])
def test_sun397(scenes, color, channels):
    data = SUN397(root=str(scenes), image_size=16, color=color)
    assert data.x_shape == (channels, 16, 16)
    assert sizes(data) == [21, 2, 2]
    assert data.source == f"25 images of 3 classes in {scenes}, split at random"
    again = [SUN397(root=str(scenes), image_size=16, color=color, seed=seed) for seed in (0, 1)]
    assert torch.equal(again[0].take("val")[0], data.take("val")[0])
    assert not torch.equal(again[1].take("val")[0], data.take("val")[0])
    streamed = SUN397(root=str(scenes), image_size=16, color=color, cache=False)
    for split in SPLITS:
        assert torch.equal(streamed.take(split)[0], data.take(split)[0])
        assert torch.equal(streamed.labels[split], data.labels[split])
    everything = torch.cat([data.take(split)[0] for split in SPLITS]).flatten(1)
    assert len(everything.unique(dim=0)) == 25, "splits overlap"


def test_a_second_start_decodes_nothing(scenes, monkeypatch):
    first = SUN397(root=str(scenes), image_size=12).take("train")[0]
    monkeypatch.setattr("pyrovae.data.image_folders.read_picture", lambda *_, **__: pytest.fail("decoded again"))
    assert torch.equal(SUN397(root=str(scenes), image_size=12).take("train")[0], first)


def test_sun397_with_a_broken_file(scenes, tmp_path, capsys):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    broken = root / "a" / "abbey" / "sun_0.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    for cache in (True, False):
        with pytest.raises(
            DataError, match=r"^SUN397: cannot read .*sun_0.jpg \(.*\); mend or remove it, or set dataset.on_bad: skip$"
        ):
            SUN397(root=str(root), cache=cache).take("train")
    data = SUN397(root=str(root), on_bad="skip")
    assert f"SUN397: 1 of 25 files cannot be read and are left out: {broken}" in capsys.readouterr().err
    assert sum(sizes(data)) == 24
    assert data.source.startswith("24 images of 3 classes")
    assert sum(len(labels) for labels in data.labels.values()) == 24
    streamed = SUN397(root=str(root), on_bad="skip", cache=False)
    assert f"SUN397: 1 of 25 files cannot be read and are left out: {broken}" in capsys.readouterr().err
    whole = SUN397(root=str(scenes), cache=False)
    for split in SPLITS:
        assert torch.equal(data.take(split)[0], streamed.take(split)[0])
        cached, with_another = data.take(split)[0].flatten(1), whole.take(split)[0].flatten(1)
        assert (torch.cdist(cached, with_another).min(1).values == 0).all(), "no other moves from split to split"


def test_sun397_without_pictures(tmp_path):
    with pytest.raises(DataError, match=r"nowhere \(dataset.root\) does not exist; .* download of it is dead"):
        SUN397(root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no pictures"):
        SUN397(root=str(tmp_path))


@pytest.fixture
def three(tmp_path):
    """Three classes of five pictures; of class i their grey is 70 i + 10 j, of picture j."""
    for i, name in enumerate(["a/x", "a/y", "z"]):
        for j in range(5):
            save(tmp_path / "three" / name / f"{j}.png", 70 * i + 10 * j)
    return tmp_path / "three"


def check_labels(data):
    for split in SPLITS:
        assert [grey // 70 for grey in greys(data, split)] == data.labels[split].tolist()


@pytest.mark.parametrize("cache", [True, False])
def test_scenes_keep_their_labels(three, cache):
    data = SUN397(root=str(three), image_size=8, val_fraction=0.2, test_fraction=0.2, cache=cache)
    assert data.class_names == ("a/x", "a/y", "z")
    check_labels(data)


def write_lists(folder: Path, number: int, train: list[str], test: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"Training_{number:02}.txt").write_text("\r\n".join(train) + "\r\n\r\n")
    (folder / f"Testing_{number:02}.txt").write_text("\n".join(test))


TRAIN = [f"/{name}/{j}.png" for name in ("a/x", "a/y", "z") for j in (0, 2, 3)]
TEST = [f"/{name}/{j}.png" for name in ("a/x", "a/y", "z") for j in (1,)]


@pytest.mark.parametrize("place", [".", "Partitions", "..", "../Partitions"])
def test_official_partitions(three, place, monkeypatch):
    write_lists(three / place, 1, TRAIN, TEST)
    write_lists(three / place, 7, TEST * 1 + TRAIN[:3], TRAIN[3:6])
    how = {"image_size": 8, "val_fraction": 0.34}
    data = SUN397(root=str(three), **how)
    assert data.source.endswith("split by Training_01.txt and Testing_01.txt")
    assert sizes(data) == [6, 3, 3]
    assert sorted(greys(data, "test")) == [10, 80, 150]
    assert data.labels["val"].sort().values.tolist() == [0, 1, 2], "class by class"
    listed = sorted([*greys(data, "train"), *greys(data, "val")])
    assert listed == [70 * i + 10 * j for i in range(3) for j in (0, 2, 3)]
    check_labels(data)
    monkeypatch.chdir(three)
    assert sorted(greys(SUN397(root=".", partition=7, **how), "test")) == [70, 90, 100]
    assert sizes(SUN397(root=str(three), partition="none", image_size=8)) == [11, 2, 2]
    with pytest.raises(
        DataError, match=r"partition is 2, and neither .* holds Training_02.txt and Testing_02.txt; put both"
    ):
        SUN397(root=str(three), partition=2)


def test_partitions_that_do_not_fit(three):
    write_lists(three, 1, [*TRAIN, "/z/9.png", "/q/1.png"], TEST)
    with pytest.raises(
        DataError,
        match=r"Training_01.txt names 2 files that .* lacks, q/1.png say; get the rest, or set dataset.partition: none",
    ):
        SUN397(root=str(three))
    write_lists(three, 1, TRAIN, [*TEST, TRAIN[0]])
    with pytest.raises(DataError, match=r"1 files both train and test, .*three/a/x/0.png say"):
        SUN397(root=str(three))
    write_lists(three, 1, TRAIN, [])
    with pytest.raises(DataError, match=r"Testing_01.txt is empty"):
        SUN397(root=str(three))


def test_a_listed_picture_that_is_broken(three):
    write_lists(three, 1, TRAIN, TEST)
    (three / "z" / "1.png").write_bytes(b"")
    data = SUN397(root=str(three), on_bad="skip", image_size=8)
    assert sorted(greys(data, "test")) == [10, 80]


# image_folder


def folder(root: Path, **how):
    return ImageFolder(root=str(root), **{"image_size": 8, **how})


@pytest.mark.parametrize("cache", [True, False])
def test_image_folder_of_classes(three, cache):
    data = folder(three, val_fraction=0.2, test_fraction=0.4, cache=cache)
    assert sizes(data) == [6, 3, 6]
    assert data.class_names == ("a/x", "a/y", "z")
    assert data.source == f"15 images of 3 classes in {three}, split at random"
    check_labels(data)
    assert sorted(grey for split in SPLITS for grey in greys(data, split)) == [
        70 * i + 10 * j for i in range(3) for j in range(5)
    ]
    assert greys(folder(three, val_fraction=0.2, test_fraction=0.4, seed=1), "train") != greys(data, "train")


def test_image_folder_without_classes(three):
    data = folder(three / "z", val_fraction=0.2, test_fraction=0.2)
    assert sizes(data) == [3, 1, 1]
    assert data.labels == {}
    assert data.class_names == ()
    assert data.source == f"5 images in {three / 'z'}, split at random"


def test_three_pictures_make_three_splits_of_one(three):
    for j in (3, 4):
        (three / "z" / f"{j}.png").unlink()
    data = folder(three / "z", val_fraction=0.01, test_fraction=0.01)
    assert sizes(data) == [1, 1, 1]
    assert [len(x) for split in SPLITS for x in data.batches(split, 4)] == [1, 1, 1]
    assert len(data.sketch()) == 3 * 16


@pytest.mark.parametrize("val", ["val", "valid", None])
@pytest.mark.parametrize("test", ["test", None])
def test_image_folder_with_folders_of_splits(three, tmp_path, val, test):
    root = tmp_path / "root"
    shutil.copytree(three, root / "train")
    if val:
        save(root / val / "z" / "v.png", 141)
        save(root / val / "a" / "x" / "v.png", 1)
    if test:
        save(root / test / "a" / "y" / "t.png", 71)
    data = folder(root, val_fraction=0.2, test_fraction=0.4)
    assert sizes(data) == [15 - (0 if val else 3) - (0 if test else 6), 2 if val else 3, 1 if test else 6]
    assert data.class_names == ("a/x", "a/y", "z")
    check_labels(data)
    assert data.source.endswith("split by its folders")
    if val:
        assert sorted(greys(data, "val")) == [1, 141]
    if test:
        assert greys(data, "test") == [71]


def test_a_broken_picture_in_a_folder_of_a_split(three, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(three, tmp_path / "root" / split)
        (tmp_path / "root" / split / "z" / "1.png").write_bytes(b"")
    data = folder(tmp_path / "root", on_bad="skip", val_fraction=0.2)
    assert sizes(data) == [11, 3, 14]
    check_labels(data)
    assert sorted(greys(data, "test")) == sorted([*greys(data, "train"), *greys(data, "val")])
    assert 150 not in greys(data, "test")


def test_flat_folders_of_splits_have_no_labels(tmp_path):
    for i, split in enumerate(["train", "valid", "test"]):
        for j in range(i + 2):
            save(tmp_path / split / f"{j}.png", 10 * i)
    data = folder(tmp_path)
    assert sizes(data) == [2, 3, 4]
    assert data.labels == {}
    assert [set(greys(data, split)) for split in SPLITS] == [{0}, {10}, {20}]


def test_train_can_be_a_class_but_not_beside_test(three):
    for j in range(5):
        save(three / "train" / f"{j}.png", 210)
    assert folder(three).class_names == ("a/x", "a/y", "train", "z")
    save(three / "test" / "0.png")
    with pytest.raises(DataError, match=r"has folder train, and .*a/x/0.png beside it; move one of them away"):
        folder(three)


def test_image_folder_by_its_name_in_yaml(three):
    assert COMPONENTS["dataset"]["image_folder"] is ImageFolder
    with pytest.raises(
        DataError, match=r"ImageFolder: .*nowhere \(dataset.root\) does not exist; name a folder of pictures"
    ):
        folder(three / "nowhere")


def test_real_photographs(tmp_path):
    from sklearn.datasets import load_sample_images

    for i, photograph in enumerate(load_sample_images().images):
        for j in range(4):
            (tmp_path / f"{i}").mkdir(exist_ok=True)
            Image.fromarray(photograph[j * 4 :]).save(tmp_path / f"{i}" / f"{j}.jpg", quality=95)
    data = folder(tmp_path, image_size=32, color="rgb", val_fraction=0.25, test_fraction=0.25)
    x, labels = data.take("train")
    means = [photograph[:, 106:-106].mean((0, 1)) / 255 for photograph in load_sample_images().images]
    for picture, label in zip(x, labels, strict=True):
        assert np.abs(picture.mean((1, 2)).numpy() - means[label]).max() < 0.03
