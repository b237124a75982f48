"""CSV and TensorBoard in one folder, before and after a resume."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


def loggers(
    run_dir: Path, hparams: Mapping[str, Any], resume_step: int | None, row: Mapping[str, Any] | None = None
) -> list[Logger]:
    """Both loggers; after a resume, what was logged from step `resume_step` on is taken back, since it comes again.

    A kill right after a checkpoint may have lost what its step logged, which it keeps as `row`.
    """
    metrics = run_dir / "metrics.csv"
    kept = []
    if resume_step is not None and metrics.is_file():
        with metrics.open(newline="") as file:
            kept = [old for old in csv.DictReader(file) if int(old["step"]) < resume_step]
    csv_logger = CSVLogger(run_dir, name="", version="")  # starts the file anew
    for old in kept:
        values: Any = {key: value for key, value in old.items() if value and key != "step"}
        csv_logger.log_metrics(values, int(old["step"]))
    lost = dict(row or {})
    step = lost.pop("step", None)
    if any(old["step"] == str(step) and old.get("train/loss") for old in kept):
        lost = {}
    if lost:
        csv_logger.log_metrics(lost, step)
    csv_logger.save()  # back on disk before anything can go wrong again
    board = TensorBoardLogger(run_dir, name="", version="", default_hp_metric=False, purge_step=resume_step)
    board.log_hyperparams(dict(hparams))
    if lost:
        board.log_metrics(lost, step)
    if resume_step is None and getattr(rank_zero_only, "rank", 0) == 0:
        text = yaml.safe_dump(dict(hparams), sort_keys=False, allow_unicode=True)
        board.experiment.add_text("settings", f"```yaml\n{text}```")
    return [csv_logger, board]
