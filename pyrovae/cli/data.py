"""`scripts/data.py`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from .base import command_parser, guarded

_EXAMPLES = """
python scripts/data.py list
python scripts/data.py inspect --config configs/ivae.yaml
python scripts/data.py inspect --config configs/sun397.yaml dataset.root=DIR --out scenes.png
"""
_DESCRIPTION = """list: every data set, with its keys and their defaults.
inspect: the data of one configuration as the model sees them: sizes, where they lie, values, classes, speed, and a
picture of a batch; data that the likelihood refuses are shown as they are read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Tells of data sets; returns the exit code."""
    parser = command_parser("data.py", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("command", choices=("list", "inspect"), help="what to do")
    parser.add_argument("--config", metavar="FILE", help="YAML file (default: configs/default.yaml)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: runs/data/<config>.png)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override one value of the file")
    args = parser.parse_intermixed_args(argv)
    if args.command == "list" and (args.config or args.out or args.overrides):
        parser.error("list takes no configuration; inspect does")
    if args.out and args.out.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --out: must end in .png, .pdf, .svg, got {args.out}")
    return guarded(lambda: _tell(args), args.debug)


def _tell(args: argparse.Namespace) -> None:
    from .. import config, files, inspection  # noqa: PLC0415 - torch takes seconds, and --help should not
    from ..config.build import DataError, read_data  # noqa: PLC0415

    if args.command == "list":
        return print(inspection.catalogue())
    path = Path(args.config or "default")
    chosen, start, refused = config.load_config(path, args.overrides), perf_counter(), None
    out = args.out or Path("runs") / "data" / f"{path.stem}.png"
    files.check_writable(out.parent, "name another place with --out")
    try:
        data = config.build_data(chosen)
    except DataError as error:  # which is when one wants to look
        data, refused = replace(read_data(chosen), binarize="none", augment=None), error
    seconds, how = perf_counter() - start, {"batch_size": chosen.dataset.batch_size, "seed": chosen.train.seed}
    report = inspection.inspected(data, progress=not args.quiet, **how)
    print(inspection.words(report))
    if hasattr(chosen.model, "likelihood"):
        verdict = "see the error; data are shown as read" if refused else "has a density for these data"
        print(f"\nlikelihood {chosen.model.likelihood.type}: {verdict}")
    with files.replacing(out) as part:
        inspection.figure(report).savefig(part, format=out.suffix[1:], dpi=150)
    print(f"read in    {seconds:.1f} s\npicture    {out}")
    if refused is not None:
        raise refused
