"""The command line. Scripts call `train`; a failure is one line on stderr and an exit code."""

import argparse
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

EXIT_CODES = {
    "ConfigError": 2,
    "SettingsError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "NumericsError": 5,
    "OSError": 6,
    "TerminatedError": 143,
}

_EPILOG = """exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 numerics, 6 input/output, 143 terminated

examples:
  python scripts/train.py --config configs/ivae.yaml
  python scripts/train.py --config configs/ivae.yaml guide.refiner.num_steps=20 train.epochs=5
  python scripts/train.py --config configs/vae_conv.yaml guide=svi
  python scripts/train.py --config configs/ivae.yaml --print
  python scripts/train.py --resume runs/ivae/version_0
  python scripts/train.py --resume runs/ivae/version_0 train.epochs=60"""


def train(argv: Sequence[str] | None = None) -> int:
    """Trains from a YAML file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a variational autoencoder: model, guide and data from one YAML file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file (default: configs/default.yaml)")
    parser.add_argument("--resume", metavar="RUN_DIR", help="go on with a run, with its own configuration")
    parser.add_argument(
        "--print", action="store_true", help="print the whole configuration, defaults included, and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override one value of the file")
    args = parser.parse_intermixed_args(argv)
    if args.resume and args.config:
        parser.error("--resume takes the configuration from the run's folder; leave --config out")
    return _guarded(lambda: _train(args), args.debug)


def _guarded(job: Callable[[], None], debug: bool) -> int:
    try:
        job()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = next((EXIT_CODES[c.__name__] for c in type(error).__mro__ if c.__name__ in EXIT_CODES), None)
        if debug or code is None:  # an error nobody foresaw is a bug, and its traceback the report
            traceback.print_exc()
        if code is None:
            return 1
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return code
    return 0


class _AboveBars(logging.Handler):
    """Prints messages so that progress bars stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.write(record.getMessage(), file=sys.stderr)


def _train(args: argparse.Namespace) -> None:
    # Imported late: torch and Lightning take seconds, and --help should not.
    import torch  # noqa: PLC0415

    from .build import build_data, build_model, fit_arguments  # noqa: PLC0415
    from .config import load_config, to_yaml  # noqa: PLC0415
    from .run_folder import RunFolder  # noqa: PLC0415
    from .training import fit  # noqa: PLC0415

    old = RunFolder.reopen(Path(args.resume)) if args.resume else None
    default = Path(__file__).parent.parent / "configs" / "default.yaml"
    config = load_config(old.path / "config.yaml" if old else args.config or default, args.overrides)
    if args.print:
        print(to_yaml(config), end="")
        return
    if old is not None:
        old.change(config)
    if not args.quiet:  # compiling takes seconds in which no bar moves
        log = logging.getLogger("pyrovae")
        log.setLevel(logging.INFO)
        log.addHandler(_AboveBars())
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    data = build_data(config)
    model, guide = build_model(config, data.x_shape)
    folder = old or RunFolder.create(config)
    folder.announce(data)
    metrics = fit(
        model,
        guide,
        data,
        run_dir=folder.path,
        resume=folder.last_checkpoint if old else None,
        progress=not args.quiet,
        hparams={"data": data.source, **config.model_dump(mode="json")},
        **fit_arguments(config),
    )
    folder.summarize(config, data, metrics)
