"""Every error Bedplate raises on purpose.

A message says what was got and what was expected; `where` says the place (file, definition, column, row); `hint` says
what to do. The command line prints these three and exits with `exit_code`; the server answers with `http_status`.

>>> print(DefinitionError("unknown column 'pric'", where="features.py: view 'sales'", hint="did you mean 'price'?"))
features.py: view 'sales': unknown column 'pric'
  did you mean 'price'?
"""

from __future__ import annotations

import re
from collections.abc import Iterable


class BedplateError(Exception):
    """The root of Bedplate's errors.

    Args:
        message: what was got and what was expected.
        where: the file, definition, column or row.
        hint: what to do about it.
        told: what clients of a server are told in place of a message that quotes what is not for them; None: the
            message.

    >>> str(DataError("the function fails: ValueError: /srv/prices.csv", where="model 'm:1'", told=FAILS).for_client())
    "model 'm:1': the function fails; the server's log says more"
    """

    exit_code = 1
    http_status = 500

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, told: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.told = told
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """The place, the message, and on a line of its own what to do."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text

    def for_client(self) -> BedplateError:
        """What clients of a server are told: what is for them, and of paths and URLs the last part alone."""
        message = self.message if self.told is None else self.told
        where = self.where and without_paths(self.where)
        return BedplateError(without_paths(message), where=where, hint=self.hint and without_paths(self.hint))


FAILS = "the function fails; the server's log says more"
"""What clients are told of a function of the project that raises: what it says is for the project."""


class ConfigError(BedplateError):
    """`bedplate.toml`, a job's config or a command's option is wrong."""

    exit_code = 2


class DefinitionError(BedplateError):
    """A definition (entity, source, view, label, dataset, service) is wrong; found before anything runs."""

    exit_code = 2


class DataError(BedplateError):
    """A table does not hold what its definition says: schema, null keys, times out of range."""

    exit_code = 3


class NotFoundError(BedplateError):
    """A named thing (view, model, run, file, key) is not there."""

    exit_code = 4
    http_status = 404


class NotServedError(NotFoundError):
    """What a request names is not served: the error quotes the client's own words, and nothing of the server's.

    >>> NotServedError("no path '/shop/recommend'").for_client().message
    "no path '/shop/recommend'"
    """

    def for_client(self) -> BedplateError:
        """The error itself: what looks like a path or a URL in it came from the client."""
        return self


class StoreError(BedplateError):
    """A store (offline, online, registry) can't be read or written, or holds something of another version."""

    exit_code = 5
    http_status = 503


class AheadError(StoreError):
    """An online store holds events later than the time that was asked for, and can't look back."""

    http_status = 409


class ConflictError(StoreError):
    """Another writer was first: a step expected a value that is no longer so. Nothing has changed; read again."""

    http_status = 409


class UnavailableError(StoreError):
    """A store can't be reached now: its server is down, or the connection is cut. Nothing has changed; try again."""


class UncertainError(StoreError):
    """Whether a store has taken a step is not known: the connection was lost. Read the state again, then go on."""


class DeadlineError(StoreError):
    """A store did not answer by the time at which the answer was needed."""

    http_status = 504


class ArtifactError(BedplateError):
    """A model's folder is incomplete, changed, or does not reproduce its golden scores: asking again is no use."""

    exit_code = 6


class ProofError(BedplateError):
    """A proof that must hold (parity, golden scores) does not."""

    exit_code = 7


class RequestError(BedplateError):
    """A request to the service is wrong; the client must change it."""

    http_status = 400

    def for_client(self) -> BedplateError:
        """The error itself: it quotes the client's own."""
        return self


class NotReadyError(BedplateError):
    """A server that has not loaded what it answers from.

    Args:
        what: that is, a plural.
        ask: the path that says when it is there.
        failed: whether it could not be loaded, and is tried again.
    """

    http_status = 503

    def __init__(self, what: str, *, ask: str, failed: bool = False) -> None:
        if failed:
            super().__init__(f"the {what} can't be loaded", hint="the server's log says why, and it tries again")
        else:
            super().__init__(f"the {what} are still loading", hint=f"ask {ask}")


class MissingExtraError(BedplateError):
    """A library that an optional part needs is not installed."""

    exit_code = 2

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"the library '{library}' is not installed",
            hint=f"install it with: pip install 'bedplate[{extra}]'" + _BESIDE.get(extra, ""),
        )


_PATH = re.compile(
    r"""(?<![\w.~/-])(?:[a-z][a-z0-9+]*:/{1,3}|/)  # not within a word, but where a scheme is before it
    (?!v2/)[^\s/'"]+/[^\s'"]*                     # of two parts at least, and none of the server's own routes
    (?:(?<=\w)[ ][\w.-]+/[^\s'"]*)*               # a folder whose name has a space""",
    re.VERBOSE,
)


def without_paths(text: str) -> str:
    """A text in which absolute paths and URLs are cut to their last part: where things lie is not for clients.

    >>> without_paths("the folder /srv/my shop/registry/models/ranker/3 was changed by hand")
    'the folder .../3 was changed by hand'
    >>> without_paths("lmdb:///srv/online: redis://:secret@cache:6379/0, input '$.inputs[0]' and/or /v2/models/a")
    ".../online: .../0, input '$.inputs[0]' and/or /v2/models/a"
    """
    return _PATH.sub(lambda found: f".../{_last(found[0])}", text)


def _last(path: str) -> str:
    """The last part of a path, with the punctuation of the sentence that follows it."""
    return path.rstrip("/").rpartition("/")[2]


_BESIDE = {
    # What they require by themselves is the build for CUDA.
    "sharding": "\n  and beside it: pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0"
}
"""What an extra can't install, and what does."""

_EXTRAS = {
    "adbc_driver_manager": "postgresql",
    "adbc_driver_postgresql": "postgresql",
    "confluent_kafka": "kafka",
    "deltalake": "delta",
    "fastavro": "kafka",
    "fbgemm_gpu": "sharding",
    "google": "kafka",
    "grpc": "grpc",
    "hiredis": "redis",
    "httptools": "serve",
    "lance": "lance",
    "mlflow": "mlflow",
    "lightgbm": "lightgbm",
    "optuna": "search",
    "onnx": "train",
    "onnxruntime": "serve",
    "onnxscript": "train",
    "pyiceberg": "iceberg",
    "redis": "redis",
    "skl2onnx": "sklearn",
    "sklearn": "sklearn",
    "torch": "train",
    "uvloop": "serve",
    "xgboost": "xgboost",
    "tensordict": "sharding",
    "torchrec": "sharding",
    "yaml": "feast",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error that says which extra to install, where a failed import is of a library that an extra installs.

    >>> missing_extra(ModuleNotFoundError(name="torch")).hint
    "install it with: pip install 'bedplate[train]'"
    """
    library = (error.name or "").partition(".")[0]
    return MissingExtraError(library, _EXTRAS[library]) if library in _EXTRAS else None


def reason(error: BaseException) -> str:
    r"""What another library's error says, without the paragraphs on the library's insides that follow.

    >>> reason(ValueError("expected a list\n\nResolved plan until failure:\n\nDF"))
    'expected a list'
    """
    return str(error).split("\n\n", 1)[0].strip() or type(error).__name__


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that a misspelt name may stand for; None: it is like none of them.

    >>> nearest("pric", ["price", "quantity"]), nearest("zzz", ["price", "quantity"])
    ('price', None)
    """
    import difflib  # not loaded where nobody makes a mistake

    return next(iter(difflib.get_close_matches(name, options, n=1)), None)


def suggest(name: str, options: Iterable[str], label: str = "known") -> str:
    """A hint for a misspelt name: the nearest option, or the list of them.

    >>> suggest("pric", ["price", "quantity"])
    "did you mean 'price'?"
    >>> suggest("zzz", ["price", "quantity"], "columns")
    'columns: price, quantity'
    """
    names = sorted(set(options))
    near = nearest(name, names)
    if near is not None:
        return f"did you mean '{near}'?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"{label}: {shown or 'none'}"
