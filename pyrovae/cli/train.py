"""`scripts/train.py`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .base import allow_argument, command_parser, guarded, show_log

_EXAMPLES = """
python scripts/train.py --config configs/ivae.yaml
python scripts/train.py --config configs/ivae.yaml guide.refiner.num_steps=20 train.epochs=5
python scripts/train.py --config configs/vae_conv.yaml guide=svi
python scripts/train.py --config configs/ivae.yaml --print
python scripts/train.py --resume runs/ivae/version_0
python scripts/train.py --resume runs/ivae/version_0 train.epochs=60
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Trains from a YAML file; returns the exit code."""
    description = "Train a variational autoencoder: model, guide and data from one YAML file."
    parser = command_parser("train.py", description, _EXAMPLES)
    parser.add_argument("--config", metavar="FILE", help="YAML file, or one of pyrovae's own (default: default)")
    parser.add_argument("--resume", metavar="RUN_DIR", help="go on with a run, with its own configuration")
    allow_argument(parser)
    parser.add_argument("--print", action="store_true", help="print the configuration, defaults included, and stop")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override one value of the file")
    args = parser.parse_intermixed_args(argv)
    if args.resume and args.config:
        parser.error("--resume takes the configuration from the run's folder; leave --config out")
    return guarded(lambda: _train(args), args.debug)


def _train(args: argparse.Namespace) -> None:
    # Imported late: torch and Lightning take seconds, and --help should not.
    import torch  # noqa: PLC0415

    from ..config import build_data, build_model, fit_arguments, load_config, to_yaml  # noqa: PLC0415
    from ..runs.folder import RunFolder  # noqa: PLC0415
    from ..runs.load import read_config  # noqa: PLC0415
    from ..training import fit  # noqa: PLC0415

    old = RunFolder.reopen(Path(args.resume)) if args.resume else None
    if old:
        config = read_config(old.path, args.overrides, args.allow)
    else:
        config = load_config(args.config or "default", args.overrides)
    if args.print:
        print(f"# {config.note}\n" * bool(config.note) + to_yaml(config), end="")
        return
    if old:
        old.change(config, args.allow)
    if not args.quiet:
        show_log()
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    data = build_data(config)
    model, guide = build_model(config, data.x_shape)
    folder = old or RunFolder.create(config)
    folder.announce(config, data)
    metrics = fit(
        model, guide, data, run_dir=folder.path, resume=folder.last_checkpoint if old else None,
        progress=not args.quiet and sys.stderr.isatty(),
        hparams={"data": data.source, **config.model_dump(mode="json")}, **fit_arguments(config),
    )  # fmt: skip
    folder.report(folder.summarize(config, data, metrics), data)
