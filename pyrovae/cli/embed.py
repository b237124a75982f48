"""`scripts/embed.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .base import at_least, command_parser, guarded, run_arguments, show_log

_EXAMPLES = """
python scripts/embed.py runs/ivae/version_0 --out z.npz
python scripts/embed.py runs/ivae/version_0 --out z.npz --split train --batch-size 1000
python scripts/embed.py runs/ivae/version_0 --out z.npz --checkpoint last dataset.root=DIR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes λ and means of q for a whole split; returns the exit code."""
    description = (
        "Infer every datapoint of a split, and write λ₀, λ_K, the means of q, labels and covariates to one .npz file.\n"
        "Row i is datapoint i of the split, and row[i] of your own file. Memory does not grow with the split."
    )
    parser = command_parser("embed.py", description, _EXAMPLES)
    run_arguments(parser)
    parser.add_argument("--out", metavar="FILE", required=True, help="where to, z.npz say")
    parser.add_argument(
        "--batch-size", metavar="N", type=at_least(1), default=500, help="datapoints at once (default: 500)"
    )
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _embed(args), args.debug)


def _embed(args: argparse.Namespace) -> None:
    # Imported late: torch and Lightning take seconds, and --help should not.
    from ..files import check_writable  # noqa: PLC0415
    from ..runs.embed import embed  # noqa: PLC0415
    from ..runs.load import open_run  # noqa: PLC0415

    path = Path(args.out)
    trained, data = open_run(args.run_dir, args.checkpoint, args.overrides, args.allow)
    check_writable(path.parent, "name another place with --out")
    if path.is_dir():
        raise IsADirectoryError(f"--out: {path} is a folder; name a file, {path / 'z.npz'} say")
    if not args.quiet:
        show_log()
    meta = {"run": args.run_dir, "checkpoint": args.checkpoint}
    options = {"split": args.split, "batch_size": args.batch_size, "progress": not args.quiet}
    shapes = embed(trained, data, path, meta=meta, **options)
    print(f"{path}: {args.split} of {data.source}; " + ", ".join(f"{k} {v}" for k, v in shapes.items() if v))
