"""What a run leaves: `runs/<name>/version_<n>`."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import pyro
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from .. import __version__
from ..config import Config, ConfigError, changes, to_yaml
from ..files import replacing
from ..training import CheckpointError
from .load import noun, read_config


def is_rank_zero() -> bool:
    """Whether this process is the one that writes."""
    return not getattr(rank_zero_only, "rank", 0)


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. On ranks other than 0 it is a name only: they write nothing.

    >>> RunFolder(Path("runs/ivae/version_0")).last_checkpoint.name
    'last.ckpt'
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Claims the next free version, and writes the resolved configuration there, or raises OSError."""
        parent = Path(config.train.save_dir) / config.train.name
        if not is_rank_zero():
            return cls(parent / "version_of_rank_0")
        try:
            for version in count():
                path = parent / f"version_{version}"
                try:
                    path.mkdir(parents=True)  # fails if it exists, so two runs never share one
                    break
                except FileExistsError:
                    if not path.is_dir():
                        raise
            cls(path).write(config)
        except OSError as error:
            remedy = "set it to a folder that you may write to"
            raise OSError(f"train.save_dir: cannot write to {parent} ({error.strerror}); {remedy}") from error
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """The folder of a run to go on with; a `CheckpointError`, if it holds no checkpoint."""
        folder = cls(path)
        if not folder.last_checkpoint.is_file():
            raise CheckpointError(f"{path} holds no checkpoints/last.ckpt to resume from; start the run again")
        return folder

    def write(self, config: Config) -> None:
        """Writes the resolved configuration."""
        text = f"# pyrovae train --config {self.path}/config.yaml\n{to_yaml(config)}"
        (self.path / "config.yaml").write_text(text, encoding="utf-8")

    def change(self, config: Config, allow: Collection[str] = ()) -> None:
        """Writes the configuration that a resumed run goes on with; `train:` and where data lies may differ.

        Raises:
            ConfigError: Something else differs, so that the checkpoint would not fit.
        """
        found = changes(read_config(self.path, allow=allow), config, ignoring=["train"])
        if found:
            remedy = "start a new run for that"
            lines = (f"{key}: cannot change on resume, from {old} to {new}; {remedy}" for key, old, new in found)
            raise ConfigError("\n".join(sorted(lines)))
        if is_rank_zero():
            self.write(config)

    @property
    def last_checkpoint(self) -> Path:
        """The newest state."""
        return self.path / "checkpoints" / "last.ckpt"

    def announce(self, config: Config, data: Any) -> None:
        """Says where results go, what is learned from, and what a preset filled in."""
        if is_rank_zero():
            print(f"run {self.path}: {data.source}, {len(data.train)} training {noun(data)}s", flush=True)
            if config.note:
                print(config.note, flush=True)

    def summarize(self, config: Config, data: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """Writes `summary.json`; returns what it holds."""
        splits = [split for split in ("train", "val", "test") if hasattr(data, split)]
        summary: dict[str, Any] = {
            "dataset": getattr(data, "source", type(data).__name__),
            **{f"num_{split}": len(getattr(data, split)) for split in splits},
            "sketch": data.sketch() if hasattr(data, "sketch") else [],
            "seed": config.train.seed,
            "versions": versions(),
            "components": {module: _version(module) for module in config.own_modules},
            "commit": _commit(),
            "machine": machine(config),
            **metrics,
        }
        if is_rank_zero():
            with replacing(self.path / "summary.json") as part:  # that it is there says that the run is whole
                part.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return summary

    def report(self, summary: dict[str, Any], data: Any) -> None:
        """Prints what matters of a summary."""
        if not is_rank_zero():
            return

        def value(key: str, sign: str = "") -> str:
            return f"{summary[key]:{sign}.2f} ± {summary[key + '_se']:.2f}"

        what = noun(data)
        unit = f"nats {'an' if what == 'image' else 'a'} {what}"
        lines = {
            "run": self.path,
            "data": f"{summary['dataset']}, {summary['num_train']} training {what}s",
            "ELBO": f"{value('val/elbo')} on validation, {value('test/elbo')} on test ({unit})",
        }
        if summary["val/refinement_gain_se"] > 0:  # a guide that refines
            lines["ELBO"] = f"{summary['val/elbo_init']:.2f} at λ₀, {value('val/elbo')} at λ_K (validation, {unit})"
            lines["gain"] = f"{value('val/refinement_gain', '+')} nats by refinement"
            lines["test"] = f"{summary['test/elbo_init']:.2f} at λ₀, {value('test/elbo')} at λ_K"
        lines |= {"time": f"{summary['seconds']:.0f} s", "pictures": self.path / "figures"}
        lines["watch"] = f"tensorboard --logdir {self.path.parent}"
        print("\n" + "\n".join(f"{name:<9} {text}" for name, text in lines.items()))


@contextmanager
def threads_of(config: Config | None) -> Iterator[None]:
    """Inside, torch uses as many threads as the run's training did."""
    before = torch.get_num_threads()
    torch.set_num_threads((config and config.train.num_threads) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_of(config: Config | None) -> torch.device:
    """Where a trained run computes: as `train.accelerator` says, as far as this machine has it.

    >>> from pyrovae.config import check
    >>> device_of(check({"train": {"accelerator": "cpu"}}))
    device(type='cpu')
    """
    wanted = config.train.accelerator if config else "auto"
    if wanted in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if wanted in ("gpu", "mps") and torch.backends.mps.is_available() else "cpu")


def machine(config: Config) -> dict[str, Any]:
    """What a run was computed on: `cpu`, its `cores`, `threads` of torch, `gpu` if one was used, `accelerator`.

    >>> from pyrovae.config import check
    >>> machine(check({"train": {"accelerator": "cpu"}}))["accelerator"]
    'cpu'
    """
    device, info = device_of(config), Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the processor
    models = [line for line in info.read_text().splitlines() if line[:10] == "model name"] if info.exists() else []
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "accelerator": device.type,
    }


def provenance(trained: Any, data: Any, split: str) -> dict[str, Any]:
    """What arrays made of a run and a split should say of themselves."""
    scheme = {"guide": trained.config.guide.type, "family": trained.config.guide.family.type}
    facts = {"split": split, "dataset": data.source, "class_names": data.class_names}
    return {**facts, **scheme, "versions": versions()}


def versions() -> dict[str, str]:
    """Of what results depend on.

    >>> sorted(versions())
    ['lightning', 'pyro', 'pyrovae', 'python', 'torch']
    """
    libraries = {"torch": torch.__version__, "pyro": pyro.__version__, "lightning": pl.__version__}
    return {"pyrovae": __version__, "python": platform.python_version(), **libraries}


def _version(module: str) -> str | None:
    """Of the package that a user's component comes from, where it has one."""
    package = module.partition(".")[0]
    try:
        return metadata.version(metadata.packages_distributions().get(package, [package])[0])
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def _commit() -> str | None:
    """The source's git commit, where it is a checkout of pyrovae, not installed within one of something else."""
    home = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "-C", str(home), "rev-parse", "--show-toplevel", "HEAD"]
        root, commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
        own = Path(root) == home and '\nname = "pyrovae"\n' in (home / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit if own else None
