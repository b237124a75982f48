"""`scripts/sample.py`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .base import at_least, command_parser, guarded, run_arguments, show_log

_EXAMPLES = """
python scripts/sample.py runs/ivae/version_0
python scripts/sample.py runs/ivae/version_0 --num 100 --seed 1 --out pictures
python scripts/sample.py runs/ivae/version_0 --checkpoint last --split val dataset.root=DIR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes samples, reconstructions and walks in latent space; returns the exit code."""
    description = (
        "Draw from a trained model: samples from the prior, reconstructions at λ₀ and λ_K, latent traversals and\n"
        "interpolations, as pictures and as arrays in samples.npz."
    )
    parser = command_parser("sample.py", description, _EXAMPLES)
    run_arguments(parser)
    told = "of samples and reconstructions (default: 64)"
    parser.add_argument("--num", metavar="N", type=at_least(1), default=64, help=told)
    parser.add_argument("--out", metavar="DIR", help="where to (default: RUN_DIR/samples)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of all draws (default: 0)")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _sample(args), args.debug)


def _sample(args: argparse.Namespace) -> None:
    # Imported late: torch and Lightning take seconds, and --help should not.
    from ..files import check_writable  # noqa: PLC0415
    from ..runs.folder import provenance  # noqa: PLC0415
    from ..runs.load import open_run  # noqa: PLC0415
    from ..runs.sample import make_samples, write_samples  # noqa: PLC0415

    folder = Path(args.out or Path(args.run_dir) / "samples")
    trained, data = open_run(args.run_dir, args.checkpoint, args.overrides, args.allow)
    check_writable(folder, "name another place with --out")
    if not args.quiet:
        show_log()
    arrays = make_samples(trained, data, num=args.num, seed=args.seed, split=args.split)
    if "samples" not in arrays:
        text = "warning: the model has no decode, so that draws are all there is; write one, z to p(x | z)"
        print(text, file=sys.stderr)
    meta = {"run": args.run_dir, "checkpoint": args.checkpoint, "seed": args.seed}
    for path in write_samples(folder, arrays, {**meta, **provenance(trained, data, args.split)}):
        print(path)
