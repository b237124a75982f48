"""`scripts/data.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from .base import command_parser, guarded

_EXAMPLES = """
python scripts/data.py list
python scripts/data.py inspect --config configs/ivae.yaml
python scripts/data.py inspect --config configs/sun397.yaml dataset.root=DIR --out scenes.png
python scripts/data.py inspect --config configs/vae_conv.yaml dataset.augment.shift=2
"""

_SUFFIXES = (".png", ".pdf", ".svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Tells of data sets; returns the exit code."""
    description = (
        "list: every data set, with its keys and their defaults.\n"
        "inspect: the data of one configuration as the model sees them: sizes, where they lie, values, classes,\n"
        "speed, and a picture of a batch."
    )
    parser = command_parser("data.py", description, _EXAMPLES)
    parser.add_argument("command", choices=("list", "inspect"), help="what to do")
    parser.add_argument("--config", metavar="FILE", help="YAML file (default: configs/default.yaml)")
    parser.add_argument("--out", metavar="FILE", type=_picture, help="the picture (default: runs/data/<config>.png)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override one value of the file")
    args = parser.parse_intermixed_args(argv)
    if args.command == "list" and (args.config or args.out or args.overrides):
        parser.error("list takes no configuration; inspect does")
    return guarded(_list if args.command == "list" else lambda: _inspect(args), args.debug)


def _picture(text: str) -> Path:
    if Path(text).suffix not in _SUFFIXES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(_SUFFIXES)}, got {text}")
    return Path(text)


def _list() -> None:
    from ..inspection import catalogue  # noqa: PLC0415 - torch takes seconds, and --help should not

    print(catalogue())


def _inspect(args: argparse.Namespace) -> None:
    from ..config import build_data, load_config  # noqa: PLC0415 - as above
    from ..files import check_writable, replacing  # noqa: PLC0415
    from ..inspection import figure, inspected, words  # noqa: PLC0415

    path = Path(args.config or "default")
    config = load_config(path, args.overrides)
    out = args.out or Path("runs") / "data" / f"{path.stem}.png"
    check_writable(out.parent, "name another place with --out")
    start = perf_counter()
    data = build_data(config)
    seconds = perf_counter() - start
    report = inspected(data, batch_size=config.dataset.batch_size, seed=config.train.seed, progress=not args.quiet)
    print(words(report))
    if hasattr(config.model, "likelihood"):
        print(f"\nlikelihood {config.model.likelihood.type}: has a density for these data")
    print(f"read in    {seconds:.1f} s")
    with replacing(out) as part:
        figure(report).savefig(part, format=out.suffix[1:], dpi=150)
    print(f"picture    {out}")
