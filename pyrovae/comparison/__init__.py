"""Several inference schemes on one model and one data set: trained, evaluated, side by side."""

from .dry_run import described
from .estimate import check_builds
from .lock import locked
from .plan import Cell, plan
from .report import write_report
from .results import Difference, Result, paired_difference, read_result, read_results
from .runner import Failure, run_cells
from .runs import cells_of_runs
from .settings import ComparisonSettings, load_settings, resolved_evaluation
from .state import State, check_unchanged, state

__all__ = [
    "Cell",
    "ComparisonSettings",
    "Difference",
    "Failure",
    "Result",
    "State",
    "cells_of_runs",
    "check_builds",
    "check_unchanged",
    "described",
    "load_settings",
    "locked",
    "paired_difference",
    "plan",
    "read_result",
    "read_results",
    "resolved_evaluation",
    "run_cells",
    "state",
    "write_report",
]
