"""Several inference schemes on one model and one data set: trained, evaluated, side by side."""

from .engines import ENGINES, Engine, Failure, Job, Outcome, run_cells, run_job
from .plan import Cell, ComparisonSettings, checked_settings, load_settings, plan, schemes_of, slug
from .report import write_report
from .results import Difference, Result, paired_difference, read_results
from .search import Search, tuned, write_trials
from .state import State, cells_of_runs, check_builds, check_unchanged, described, locked, state

__all__ = ["ENGINES", "Cell", "ComparisonSettings", "Difference", "Engine", "Failure", "Job", "Outcome", "Result"]
__all__ += ["Search", "State", "cells_of_runs", "check_builds", "check_unchanged", "checked_settings", "described"]
__all__ += ["load_settings", "locked", "paired_difference", "plan", "read_results", "run_cells", "run_job"]
__all__ += ["schemes_of", "slug", "state", "tuned", "write_report", "write_trials"]
