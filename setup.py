"""The data of a clone goes into the built package as dragnb/data; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithData(build_py):
    """Copy data/ beside the modules, but for an editable installation, which finds it where it is."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree("data", Path(self.build_lib) / "dragnb" / "data", dirs_exist_ok=True)


setup(cmdclass={"build_py": WithData})
