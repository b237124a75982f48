"""What a run leaves: `runs/<name>/version_<n>`."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyro
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from . import __version__
from .build import Trained, build_data, load
from .config import WHERE_DATA_LIE, Config, ConfigError, load_config, to_yaml
from .data import DataError, Dataset
from .training import CheckpointError, is_of


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
            cls(path)._write(config)
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

    def _write(self, config: Config) -> None:
        text = f"# python scripts/train.py --config {self.path}/config.yaml\n{to_yaml(config)}"
        (self.path / "config.yaml").write_text(text, encoding="utf-8")

    def change(self, config: Config) -> None:
        """Writes the configuration that a resumed run goes on with; `train:` and where data lies may differ.

        Raises:
            ConfigError: Something else differs, so that the checkpoint would not fit.
        """
        before, after = (c.model_dump(mode="json") for c in (load_config(self.path / "config.yaml"), config))
        lines = sorted(
            f"{section}.{key}: cannot change on resume, from {before[section].get(key)} to {after[section].get(key)}; "
            "start a new run for that"
            for section in ("dataset", "model", "guide")
            for key in {**before[section], **after[section]}.keys() - WHERE_DATA_LIE
            if before[section].get(key) != after[section].get(key)
        )
        if lines:
            raise ConfigError("\n".join(lines))
        if _is_rank_zero():
            self._write(config)

    @property
    def last_checkpoint(self) -> Path:
        """The newest state."""
        return self.path / "checkpoints" / "last.ckpt"

    def announce(self, data: Dataset) -> None:
        """Says where results go and what is learned from."""
        if _is_rank_zero():
            print(f"run {self.path}: {data.source}, {len(data.train)} training {noun(data)}s", flush=True)

    def summarize(self, config: Config, data: Dataset, metrics: dict[str, float]) -> None:
        """Writes `summary.json` and prints what matters of it."""
        if not _is_rank_zero():
            return
        summary: dict[str, Any] = {
            "dataset": data.source,
            "num_train": len(data.train),
            "num_val": len(data.val),
            "num_test": len(data.test),
            "sketch": data.sketch(),
            "seed": config.train.seed,
            "versions": versions(),
            "commit": _commit(),
            **metrics,
        }
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        print(_report(self.path, summary, noun(data)))


@contextmanager
def threads_of(config: Config) -> Iterator[None]:
    """Inside, torch uses as many threads as the run's training did."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.train.num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_run(run_dir: str | Path, checkpoint: str = "best", overrides: Sequence[str] = ()) -> tuple[Trained, Dataset]:
    """A trained run and its data set; says on stderr if that is not the one it was trained on.

    Args:
        run_dir: Folder of the run.
        checkpoint: `best` by validation ELBO, or `last`.
        overrides: Where data lies by now, `dataset.root=DIR`; other sections are the run's own.

    Raises:
        CheckpointError: No run there, or a damaged or foreign checkpoint.
        ConfigError: An override that is unknown, or of another section.
        DataError: Missing or damaged data, or of another shape.
    """
    foreign = [override for override in overrides if not override.startswith("dataset.")]
    if foreign:
        raise ConfigError(
            f"{foreign[0]}: a run stays as it was trained; only dataset values can change, dataset.root=DIR say"
        )
    trained = load(run_dir, checkpoint)
    config = load_config(Path(run_dir) / "config.yaml", overrides)
    data = build_data(config)
    if data.x_shape != trained.x_shape:
        raise DataError(
            f"dataset {data.name}: its {noun(data)}s are {data.x_shape}, and {run_dir} was trained on "
            f"{trained.x_shape}; name the data that it was trained on"
        )
    for difference in _differences(Path(run_dir), trained.config, config, data):
        print(f"warning: not the data that {run_dir} was trained on: {difference}", file=sys.stderr)
    return trained, data


def _differences(run_dir: Path, before: Config, now: Config, data: Dataset) -> list[str]:
    """What makes the data set another than the one that the run was trained on."""
    old, new = before.dataset.model_dump(), now.dataset.model_dump()
    free = WHERE_DATA_LIE | {"source", "batch_size"}  # a source shows in the number of datapoints
    changed = [key for key in new if key not in free and new[key] != old.get(key)]
    lines = [f"dataset.{key} was {old.get(key)}, is {new[key]}" for key in changed]
    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a run that was stopped
        return lines
    sizes = {"num_train": len(data.train), "num_val": len(data.val), "num_test": len(data.test)}
    if any(summary.get(key, size) != size for key, size in sizes.items()):
        lines.append(
            f"that was {summary.get('dataset')} ({summary.get('num_train')} training {noun(data)}s), "
            f"this is {data.source} ({len(data.train)})"
        )
    elif not lines and not is_of(summary.get("sketch"), data.sketch()):
        lines.append(f"that was {summary.get('dataset')}, this is {data.source}, with other values")
    return lines


def provenance(trained: Trained, data: Dataset, split: str) -> dict[str, Any]:
    """What arrays made of a run and a split should say of themselves."""
    return {
        "split": split,
        "dataset": data.source,
        "class_names": data.class_names,
        "guide": trained.config.guide.type,
        "family": trained.config.guide.family.type,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what results depend on."""
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


def noun(data: Dataset) -> str:
    """What a datapoint is called."""
    return "image" if len(data.x_shape) == 3 else "datapoint"


def _report(path: Path, summary: dict[str, Any], what: str) -> str:
    def value(key: str, sign: str = "") -> str:
        return f"{summary[key]:{sign}.2f} ± {summary[key + '_se']:.2f}"

    unit = f"nats {'an' if what == 'image' else 'a'} {what}"
    lines = {
        "run": path,
        "data": f"{summary['dataset']}, {summary['num_train']} training {what}s",
        "ELBO": f"{value('val/elbo')} on validation, {value('test/elbo')} on test ({unit})",
    }
    if summary["val/refinement_gain_se"] > 0:  # a guide that refines
        lines["ELBO"] = f"{summary['val/elbo_init']:.2f} at λ₀, {value('val/elbo')} at λ_K (validation, {unit})"
        lines["gain"] = f"{value('val/refinement_gain', '+')} nats by refinement"
        lines["test"] = f"{summary['test/elbo_init']:.2f} at λ₀, {value('test/elbo')} at λ_K"
    lines["time"] = f"{summary['seconds']:.0f} s"
    lines["pictures"] = path / "figures"
    lines["watch"] = f"tensorboard --logdir {path.parent}"
    return "\n" + "\n".join(f"{name:<9} {text}" for name, text in lines.items())
