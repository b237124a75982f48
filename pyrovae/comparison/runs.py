"""Cells made of runs that are there already."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from ..config import Config, ConfigError
from ..runs.load import read_config, read_summary
from ..training import CheckpointError
from .plan import Cell

_OF_A_RUN = {"seed", "name", "save_dir"}  # of `train:`


def cells_of_runs(run_dirs: Sequence[Path], allow: Collection[str] = ()) -> list[Cell]:
    """A cell for each run; runs that differ in nothing but the seed are one scheme.

    Schemes are named as their runs are, with more of the path where two would share a name.

    Args:
        run_dirs: Folders of finished runs.
        allow: Packages beside pyrovae that their components may come from.

    Raises:
        CheckpointError: A folder that holds no finished run, or components from packages not allowed.
        ConfigError: Two schemes whose names make one file's name.
    """
    twice = [path for path, count in Counter(path.resolve() for path in run_dirs).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]}: named twice; name each run once")
    configs = []
    for path in run_dirs:
        if not read_summary(path):
            raise CheckpointError(
                f"{path} holds no summary.json that can be read; name a finished run, runs/ivae/version_0 say"
            )
        configs.append(read_config(path, allow=allow))
    contents = [_content(config) for config in configs]
    names: dict[str, str] = {}
    for path, config, content in zip(run_dirs, configs, contents, strict=True):
        if content not in names:
            name = config.train.name
            names[content] = f"{name}/{path.name}" if name in names.values() else name
            if list(names.values()).count(names[content]) > 1:
                names[content] = str(path)
    cells, seen = list[Cell](), set[tuple[str, int]]()
    for path, config, content in zip(run_dirs, configs, contents, strict=True):
        name, seed = names[content], config.train.seed
        if (name, seed) in seen:
            name = str(path)  # the same training twice
        seen.add((name, seed))
        cells.append(Cell(name, seed, config, path))
    for one, other in combinations(cells, 2):
        if one.file_name == other.file_name:
            raise ConfigError(f"{one.run_dir}, {other.run_dir}: names too much alike; move one of the folders")
    return cells


def _content(config: Config) -> str:
    values = config.model_dump(mode="json")
    values["train"] = {key: value for key, value in values["train"].items() if key not in _OF_A_RUN}
    return json.dumps(values, sort_keys=True)
