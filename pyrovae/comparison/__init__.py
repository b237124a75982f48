"""Several inference schemes on one model and one data set: trained, evaluated, side by side."""

from .engines import ENGINES, Engine, Failure, Job, Outcome, run_cells, run_job
from .estimate import check_builds, described
from .plan import Cell, plan, schemes_of, slug
from .report import write_report
from .results import Difference, Result, paired_difference, read_result, read_results
from .runs import cells_of_runs
from .search import Search, tuned, write_trials
from .settings import ComparisonSettings, checked_settings, load_settings
from .state import State, check_unchanged, locked, state

__all__ = ["ENGINES", "Cell", "ComparisonSettings", "Difference", "Engine", "Failure", "Job", "Outcome", "Result"]
__all__ += ["Search", "State", "cells_of_runs", "check_builds", "check_unchanged", "checked_settings", "described"]
__all__ += ["load_settings", "locked", "paired_difference", "plan", "read_result", "read_results"]
__all__ += ["run_cells", "run_job", "schemes_of", "slug", "state", "tuned", "write_report", "write_trials"]
