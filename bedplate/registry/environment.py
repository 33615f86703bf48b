"""The environment that a run began in, kept in its folder: a version of its own may never come of it.

RUN/environment.json   Python, platform, and every library with its version
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bedplate.canonical import to_json
from bedplate.errors import StoreError
from bedplate.files import write_record
from bedplate.registry.manifest import Environment, environment

ENVIRONMENT = "environment.json"


def keep_environment(folder: Path) -> None:
    """Writes this process's environment into a run's folder.

    Raises:
        StoreError: it can't be written.
    """
    write_record(folder / ENVIRONMENT, to_json(environment()), "the environment")


def read_environment(folder: Path) -> Environment | None:
    """The environment of a run; None where it kept none.

    Raises:
        StoreError: the file can't be read.
    """
    path = folder / ENVIRONMENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Environment)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(
            f"can't read it: {error}", where=str(path), hint="delete the file: a diff goes without"
        ) from error
