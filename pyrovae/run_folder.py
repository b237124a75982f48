"""What a run leaves: `runs/<name>/version_<n>`."""

import json
import platform
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyro
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from . import __version__
from .config import Config
from .data import ImageData
from .training import CheckpointError


def _is_rank_zero() -> bool:
    return not getattr(rank_zero_only, "rank", 0)


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. On ranks other than 0 it is a name only: they write nothing."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Claims the next free version, and writes the resolved configuration there.

        Raises:
            OSError: The folder cannot be written.
        """
        parent = Path(config.train.save_dir) / config.train.name
        if not _is_rank_zero():
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
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            (path / "config.yaml").write_text(f"# python scripts/train.py --config {path}/config.yaml\n{text}")
        except OSError as error:
            raise OSError(
                f"train.save_dir: cannot write to {parent} ({error.strerror}); set it to a folder that you may write to"
            ) from error
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """The folder of a run to go on with.

        Raises:
            CheckpointError: It holds no checkpoint.
        """
        folder = cls(path)
        if not folder.last_checkpoint.is_file():
            raise CheckpointError(f"{path} holds no checkpoints/last.ckpt to resume from; start the run again")
        return folder

    @property
    def last_checkpoint(self) -> Path:
        """The newest state."""
        return self.path / "checkpoints" / "last.ckpt"

    def announce(self, data: ImageData) -> None:
        """Says where results go and what is learned from."""
        if _is_rank_zero():
            print(f"run {self.path}: {data.source}, {len(data.train)} training images", flush=True)

    def summarize(self, config: Config, data: ImageData, metrics: dict[str, float]) -> None:
        """Writes `summary.json` and prints what matters of it."""
        if not _is_rank_zero():
            return
        summary: dict[str, Any] = {
            "dataset": data.source,
            "num_train": len(data.train),
            "num_val": len(data.val),
            "num_test": len(data.test),
            "seed": config.train.seed,
            "versions": _versions(),
            "commit": _commit(),
            **metrics,
        }
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        print(_report(self.path, summary))


def _versions() -> dict[str, str]:
    return {
        "pyrovae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "lightning": pl.__version__,
    }


def _commit() -> str | None:
    """The source's git commit, where it is a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _report(path: Path, summary: dict[str, Any]) -> str:
    elbo = f"{summary['val/elbo']:.2f} ± {summary['val/elbo_se']:.2f}"
    gain = f"{summary['val/refinement_gain']:+.2f} ± {summary['val/refinement_gain_se']:.2f}"
    return f"""
run       {path}
data      {summary["dataset"]}, {summary["num_train"]} training images
ELBO      {summary["val/elbo_init"]:.2f} at λ₀, {elbo} at λ_K (validation, nats an image)
gain      {gain} nats by refinement
time      {summary["seconds"]:.0f} s
pictures  {path / "figures"}
watch     tensorboard --logdir {path.parent}"""
