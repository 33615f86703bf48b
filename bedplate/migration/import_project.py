"""The files of a Bedplate project made from a Feast repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.config import CONFIG_FILE
from bedplate.migration.code import python_file
from bedplate.migration.feast import Translation
from bedplate.migration.feast_config import FeastConfig, toml
from bedplate.migration.recording import record_repository
from bedplate.migration.report import Report

_TITLE = """\
The definitions of the Feast project {project}.

Made by 'bedplate import feast'; README.md lists what could not be carried over.
An Attribute is the value of its column in the newest row before the time that is asked
for, null where it is null there."""


@final
@dataclass(frozen=True, slots=True)
class Import:
    """A project that is made but not yet written.

    Attributes:
        files: the content of each file, by its name.
        report: what was carried over, and what not.
    """

    files: dict[str, str]
    report: Report


def import_feast(config: FeastConfig, target: Path, interpreter: str | None = None) -> Import:
    """Turns a Feast repository into the files of a project. Its Python files are executed, as by `feast apply`.

    Args:
        config: the repository.
        target: the project's folder to be, absolute; paths of data are written relative to it.
        interpreter: the Python that executes the files; None: this one.

    Raises:
        ConfigError: the files can't be executed.
    """
    done = Translation(config, record_repository(config.root, interpreter), target)
    files = {
        CONFIG_FILE: toml(config),
        "features.py": python_file(_TITLE.format(project=config.project), done.definitions),
        "README.md": done.report.markdown(f"The Feast project {config.project} in Bedplate"),
        ".gitignore": ".bedplate/\n__pycache__/\n",
    }
    return Import(files, done.report)
