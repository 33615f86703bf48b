"""Which stream the positions of a view are of: a position in one says nothing of another with the same partitions.

A topic is known by its name and its cluster, and by the id that brokers give each topic that is made. A directory is
known by a hidden folder in it, which moves with it and is the same wherever it is mounted; where it can't be written,
by its path. The folder holds nothing but another empty one, whose name is what the directory is known by: a file there
would stop readers of whole directories, such as Polars.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bedplate.errors import ConflictError, DataError
from bedplate.features.view import CompiledView
from bedplate.files import new_folder
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.state import decode_to_write
from bedplate.online.streams import BEGINNING, Origin, Position, Stream

MARKER = ".bedplate-stream"
"""The folder in a directory by which it is known."""


def of_directory(directory: Path) -> Origin:
    """Which stream a directory is. The first to ask marks it.

    Raises:
        DataError: its marker is no marker.
    """
    path, name = directory / MARKER, str(directory.resolve())
    try:
        if not path.exists():
            with new_folder(path) as folder:  # that of another worker who is first is kept
                (folder / secrets.token_hex(8)).mkdir()
        inside = [p.name for p in path.iterdir()] if path.is_dir() else []
    except OSError:  # of a directory that can't be written
        return Origin(name, name)
    if len(inside) != 1:
        raise DataError(
            "it is no marker of a stream: it should be a folder that holds one empty folder",
            where=str(path),
            hint="delete it, then run again with --moved",
        )
    return Origin(inside[0], name)


def check_origin(
    view: CompiledView, partition: str, position: Position, before: Mapping[str, Origin], now: Origin | None
) -> None:
    """Raises `DataError` where a position is one in another stream.

    Args:
        view: whose position it is.
        partition: in which.
        position: up to where it was taken in.
        before: of which stream the position of each partition is, where that is known.
        now: the stream that is read.
    """
    known = before.get(partition)
    if position == BEGINNING or known is None or now is None or known.is_same(now):
        return
    if known.id == now.id:
        raise DataError(
            "it was deleted and made anew since the view has taken it in, so that its positions are of another one",
            where=f"{view.place}: {now.name}",
            hint="to take in the new one load the view again: bedplate materialize --replace",
        )
    raise DataError(
        f"the view has taken in another stream, '{known.name}', and its positions are of that one",
        where=f"{view.place}: {now.name}",
        hint="where it is the same one, moved or restored, run again with --moved; to take in another one instead, "
        "load the view again: bedplate materialize --replace; to take in both, make them subdirectories of one",
    )


def move(store: OnlineStore, views: Sequence[CompiledView], stream: Stream) -> None:
    """Says in the states of views that their positions in the partitions of a stream are of it.

    Raises:
        DataError: the stream can't be read.
        StoreError: a view is not loaded, or the store can't be written.
    """
    now = stream.described()
    for view in views if now is not None else ():
        while True:
            raw = store.read_many([keys.state_of(view)]).data
            state = decode_to_write(raw, view, store)
            moved = {name: now for name in stream.all_partitions() if name in state.positions}
            state = msgspec.structs.replace(state, origins=state.origins | moved)
            with contextlib.suppress(ConflictError):
                store.commit(Changes([state.put(view)], expects=[(keys.state_of(view), raw)]))
                break
