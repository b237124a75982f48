"""Checkpoints that a kill cannot tear."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ..files import replacing


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged, or of something else."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads tensors and plain values, never code.

    Raises:
        CheckpointError: No such file, or not a checkpoint.

    >>> read_checkpoint(Path(__file__))
    Traceback (most recent call last):
    pyrovae.training.checkpoint.CheckpointError: ... is damaged or not a checkpoint ...; use another
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({reason}); use another") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of a training run; use another")
    return checkpoint


def is_of(before: Sequence[float] | None, now: Sequence[float] | None) -> bool:
    """Whether two sketches, a few numbers of a data set each, may be of the same data, decoded elsewhere perhaps.

    An empty one, of data that give none, may be of any.

    >>> is_of([0.1, 0.9], [0.1, 0.902]), is_of([0.1, 0.9], [0.3, 0.9])
    (True, False)
    """
    if not before or not now:
        return True
    spread = (max(before) - min(before)) or 1.0
    return len(before) == len(now) and all(abs(a - b) <= 0.01 * spread for a, b in zip(before, now, strict=True))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: the old file is whole until the new one is.

    Lightning's own stages in the temporary directory, from where the last move is a copy if that is another device.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for orphan in target.parent.glob(f".{target.name}.*.part"):  # of a process that was killed
            orphan.unlink(missing_ok=True)
        with replacing(target) as part, part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
