"""The package as a wheel, a source distribution and an editable installation, run from another folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

import pyrovae
from pyrovae.cli import main as command
from pyrovae.cli.main import COMMANDS
from pyrovae.config import ConfigError, find_config, load_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


def run(*args: object, cwd: Path, home: Path | None = None, script: Path | None = None) -> str:
    """What Python, or a script, prints in a folder, with modules from `home` before all others."""
    env = {**os.environ, "PYTHONPATH": str(home or "")}
    words = [sys.executable, *([script] if script else []), *args]
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with what `build_wheel`, `build_sdist` and `build_editable` make of a copy of the sources."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("pyrovae", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyrovae" / "comparison" / "page.html.j2").touch()
    for what in ("wheel", "sdist", "editable"):
        run("-c", f"from setuptools.build_meta import *; build_{what}('{what}')", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A folder into which the wheel is installed, within a git repository of somebody else."""
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git = ["git", "-C", foreign, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (wheel,) = (built / "wheel").glob("*.whl")
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", foreign / "lib", wheel, cwd=foreign)
    return foreign / "lib"


def test_a_wheel_holds_configurations_and_templates(installed):
    found = sorted(path.relative_to(installed / "pyrovae").as_posix() for path in installed.rglob("*.yaml"))
    assert found == CONFIGS
    assert (installed / "pyrovae" / "comparison" / "page.html.j2").is_file()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pyrovae").rglob("*.py")}
    assert modules == {path.relative_to(installed).as_posix() for path in installed.rglob("*.py")}


def test_a_source_distribution_holds_what_a_wheel_needs(built):
    (archive,) = (built / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"setup.py", "pyproject.toml", *CONFIGS} <= names


def test_an_installed_package_trains_from_any_folder(installed, tmp_path):
    script = installed / "bin" / "pyrovae"
    assert run("--version", cwd=tmp_path, home=installed, script=script) == f"pyrovae {pyrovae.__version__}\n"
    printed = run("-m", "pyrovae.cli.main", "train", "--config", "ivae", "--print", cwd=tmp_path, home=installed)
    assert "type: ivae_iterative" in printed
    words = ["--config", "compare/quick", "--dry-run", "dataset.source=embedded"]
    planned = run("compare", *words, cwd=tmp_path, home=installed, script=script)  # whose base is ../ivae.yaml
    assert "4 to train" in planned
    run("data", "inspect", "dataset.source=embedded", "--quiet", cwd=tmp_path, home=installed, script=script)
    assert (tmp_path / "runs" / "data" / "default.png").is_file()
    small = ["dataset.source=embedded", "dataset.batch_size=1000", "train.epochs=1", "model.z_dim=2"]
    run("train", "--quiet", *small, cwd=tmp_path, home=installed, script=script)
    summary = json.loads((tmp_path / "runs" / "default" / "version_0" / "summary.json").read_text())
    assert summary["commit"] is None  # that of the repository around it is not pyrovae's


def test_an_editable_installation_reads_the_checkout(built, tmp_path):
    (wheel,) = (built / "editable").glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    libraries = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
    code = f"import site, sys; site.addsitedir('{tmp_path}/site'); sys.path += {libraries}\n"
    code += "from pyrovae.config import find_config; print(find_config('compare/quick'))"
    # Without `site`, which would know of the editable installation that runs these tests.
    assert run("-S", "-c", code, cwd=tmp_path) == f"{built}/configs/compare/quick.yaml\n"


def test_a_configuration_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("ivae") == ROOT / "configs" / "ivae.yaml"
    assert load_config("ivae").train.name == "ivae"
    (tmp_path / "svi").mkdir()
    assert find_config("svi") == ROOT / "configs" / "svi.yaml"  # a folder is no file
    (tmp_path / "ivae").write_text("model: {z_dim: 3}")
    assert load_config("ivae").model.z_dim == 3  # a path wins
    for name in ("ivea", "ivea.yaml", "elsewhere/ivea.yaml"):
        with pytest.raises(
            ConfigError, match=rf"^{name}: No such file .* did you mean ivae. valid: arrays, compare/mn"
        ):
            load_config(name)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="^runs: is a folder; name a YAML file"):
        load_config("runs")


def test_the_command_lists_the_others(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    out = capsys.readouterr().out
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert scripts == {*COMMANDS}
    for name, words in COMMANDS.items():
        assert f"  {name:<10}{words}\n" in out
    for words in ([], ["trian"]):
        with pytest.raises(SystemExit, match="2"):
            command.main(words)
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_how_a_command_was_called(name, monkeypatch, capsys):
    shown = []
    for called in ("/usr/bin/pyrovae", f"scripts/{name}.py"):
        monkeypatch.setattr(sys, "argv", [called])
        with pytest.raises(SystemExit, match="0"):
            command.main([name, "--help"])
        shown.append(capsys.readouterr().out)
    assert shown[0].startswith(f"usage: pyrovae {name} ")
    assert f"  pyrovae {name} " in shown[0]
    assert "scripts/" not in (examples := shown[0].split("examples:")[1])
    assert "configs/" not in examples
    assert shown[1].startswith(f"usage: {name}.py ")
    assert f"  python scripts/{name}.py " in shown[1]


def test_the_command_imports_no_other(tmp_path):
    code = "import sys, pyrovae.cli.main as m; print([n for n in sys.modules if n.startswith('pyrovae.cli.') or n in ('pytorch_lightning', 'sklearn')])"
    assert run("-c", code, cwd=tmp_path, home=ROOT) == "['pyrovae.cli.main']\n"
