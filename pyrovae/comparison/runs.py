"""Cells made of runs that are there already."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from ..config import Config, ConfigError, changes
from ..runs.load import read_config, read_summary
from ..training import CheckpointError, is_of
from .plan import Cell


def cells_of_runs(run_dirs: Sequence[Path], allow: Collection[str] = ()) -> list[Cell]:
    """A cell for each run; runs on the same data that differ in nothing learned but the seed are one scheme.

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
    found = list(zip(run_dirs, configs, strict=True))
    firsts = [next(i for i, other in enumerate(found) if _is_one_scheme(other, run)) for run in found]
    names: dict[int, str] = {}
    for first in dict.fromkeys(firsts):
        path, config = found[first]
        name = config.train.name
        names[first] = f"{name}/{path.name}" if name in names.values() else name
        if list(names.values()).count(names[first]) > 1:
            names[first] = str(path)
    cells, seen = list[Cell](), set[tuple[str, int]]()
    for (path, config), first in zip(found, firsts, strict=True):
        name, seed = names[first], config.train.seed
        if (name, seed) in seen:
            name = str(path)  # the same training twice
        seen.add((name, seed))
        cells.append(Cell(name, seed, config, path))
    for one, other in combinations(cells, 2):
        if one.file_name == other.file_name:
            raise ConfigError(f"{one.run_dir}, {other.run_dir}: names too much alike; move one of the folders")
    return cells


def _is_one_scheme(one: tuple[Path, Config], other: tuple[Path, Config]) -> bool:
    """Whether two runs differ in no more than their seed and where and how they ran."""
    sketches = [read_summary(path).get("sketch") for path, _ in (one, other)]
    places = [[getattr(config.dataset, key, None) for key in ("path", "root")] for _, config in (one, other)]
    same_data = is_of(*sketches) if all(sketches) else places[0] == places[1]
    return same_data and not changes(one[1], other[1], ignoring=["train.seed"])
