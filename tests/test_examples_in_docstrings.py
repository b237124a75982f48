"""Every `>>>` example of the package runs, and every public class and function has one.

`pytest --doctest-modules` would pass by what a decorator made (`validated`, `contextmanager`), and import all at once.
"""

import doctest
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pyrovae

PACKAGE = Path(pyrovae.__file__).parent
NAMES = [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "pyrovae.", onerror=lambda name: None)]
# Those whose examples are still to be written.
EXEMPT = ("evaluation", "comparison", "data")


def is_exempt(name: str) -> bool:
    return name.removeprefix("pyrovae.").split(".")[0] in EXEMPT


def file_of(name: str) -> Path:
    path = PACKAGE.parent / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class Finder(doctest.DocTestFinder):
    """Also finds what is decorated: what a module defines is what says so."""

    def _from_module(self, module: ModuleType, thing: object) -> bool:
        return super()._from_module(module, inspect.unwrap(thing) if inspect.isroutine(thing) else thing)

    def _find_lineno(self, thing: object, lines: list[str] | None) -> int | None:
        return super()._find_lineno(inspect.unwrap(thing) if inspect.isroutine(thing) else thing, lines)


def run(module: ModuleType) -> int:
    """Runs the examples of a module, and returns how many there were."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, said = doctest.DocTestRunner(optionflags=options, verbose=False), list[str]()
    for test in Finder(exclude_empty=True).find(module):
        torch.manual_seed(0)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    return runner.tries


@pytest.mark.parametrize("name", [name for name in ["pyrovae", *NAMES] if ">>>" in file_of(name).read_text()])
def test_examples_run(name):
    assert run(import_module(name)) >= file_of(name).read_text().count(">>> "), "an example is not found"


def public(module: ModuleType) -> dict[str, object]:
    """Classes and functions that a package exports, and those of the modules that it exports, priors say."""
    found: dict[str, object] = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if not isinstance(thing, ModuleType):
            found[name] = thing
        elif not hasattr(thing, "__path__"):
            own = {
                n: t for n, t in vars(thing).items() if getattr(t, "__module__", "") == thing.__name__ and n[0] != "_"
            }
            found |= {f"{name}.{n}": own[n] for n in own}
    return {n: t for n, t in found.items() if inspect.isroutine(t) or (inspect.isclass(t) and not is_error(t))}


def is_error(thing: type) -> bool:
    return issubclass(thing, BaseException)


PACKAGES = [name for name in ["pyrovae", *NAMES] if "__all__ = [" in file_of(name).read_text() and not is_exempt(name)]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_class_and_function_has_an_example(name):
    things = public(import_module(name)).items()
    without = sorted(n for n, thing in things if ">>>" not in (thing.__doc__ or "") and not is_exempt(thing.__module__))
    assert not without, f"of {name}, these have no >>> example: {', '.join(without)}"


def test_failing_and_hidden_examples_are_seen(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(
        "from contextlib import contextmanager\n\n\n@contextmanager\ndef decorated():\n    '''\n    >>> 1 + 1\n    3\n    '''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        AssertionError, match=r"line 7, in bad.decorated\s+Failed example:\s+1 \+ 1\s+Expected:\s+3\s+Got:\s+2"
    ):
        run(import_module("bad"))
