"""What pyproject.toml cannot say: `configs/` is installed as a part of the package."""

from setuptools import find_packages, setup

CONFIGS = {"pyrovae.configs": "configs", "pyrovae.configs.compare": "configs/compare"}

setup(packages=[*find_packages(include=["pyrovae*"]), *CONFIGS], package_dir=CONFIGS)
