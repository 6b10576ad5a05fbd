"""Local disaster: a data directory of which a part is damaged or gone is made one with which a node can join again.

    damaged or gone            what happens to it                                what brings it back
    db/                        aside, with tiles, blobs, learner, checkpoints    peers, as for a newcomer
    the state in it            forgotten, with the blocks                        peers
    journal/votes.journal      copied aside                                      nothing: two epochs without a vote
    keys/                      nothing: without them this is another node        the operator's copy
    genesis.bin                                                                  a peer, by the network's id

Nothing is deleted: ``aside/N`` has what was there. A vote journal that is lost is the one loss that could make an honest node
contradict itself, so that is made sure of first: an empty file in its place reads as damaged, at any start, until a node that
has caught up begins a new one with the epoch from which it may vote (chain.md S6). What others remember of us is the
second: envelope numbers go on above any that can have been used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.data_directory import DataDirectory
from node.ground import VOTES_FILE, Ground, reserve_sequences, votes_file
from node.recovery_disagreement import forget_chain
from node.state_rows import find_fetch
from protocol.rejection import Reason, Rejected
from storage.io.files import DirectoryLock, make_directory, sync_directory, write_file
from storage.io.rocks import RocksKeyValue
from storage.journal import JournalState, read_journal
from storage.kv import DatabaseCorrupt, DatabaseLocked, scan_all
from storage.ledger import Ledger

ASIDE: Final = "aside"
OnRows = Callable[[int], None]  # rows that were read


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a data directory that cannot be used, and where it is now: empty for what was not there."""

    part: str
    why: str
    aside: str


def repair_directory(
    places: DataDirectory, now_ms: int, on_rows: OnRows = lambda rows: None, fork: int = 0
) -> list[Damage]:
    """Put aside what is damaged, so that a node can stand on the rest; what was found, in order.

    Needs keys and genesis, which the caller has read. A second call after a crash goes on. ``now_ms``: where envelope numbers
    go on when it is not known how far they were; ``fork``: on which the node may have voted, besides the first. Raises
    ``DirectoryBusy``, ``DatabaseLocked``, ``OSError``.
    """
    with DirectoryLock(places.root):
        folder = _Aside(places)
        names = dict.fromkeys((votes_file(0), votes_file(fork)))
        found = [damage for name in names for damage in _repair_votes(places, folder, name)]
        why = _find_damage(places.database, on_rows)
        if why is not None:
            found += _replace_database(places, folder, why, now_ms)
        return found


def repair_chain(ground: Ground) -> list[Damage]:
    """Forget the chain of a database that can be read, where its state is not the one of its last block, or that is gone."""
    if find_fetch(ground.index) is not None:
        return []  # a state that is not whole yet, which the next start goes on to fetch
    try:
        ground.check_state()
    except (DatabaseCorrupt, Rejected) as error:
        forget_chain(ground)
        return [Damage("chain", str(error).partition(":")[0], "")]
    return []


def forbid_votes(places: DataDirectory, name: str = VOTES_FILE) -> None:
    """Put an empty vote journal where there is none: it reads as damaged, so that nothing is signed. Durable on return."""
    journal = places.journal / name
    if not journal.exists():
        make_directory(places.journal)
        write_file(journal, [])


class _Aside:
    """The folder for what is damaged, made when there is something."""

    def __init__(self, places: DataDirectory) -> None:
        self._places = places
        self._folder: Path | None = None

    def put(self, path: Path, *, keep: bool = False) -> str:
        """Move a part there, or copy it; where it is now, from the data directory. Durable on return."""
        if self._folder is None:
            top = self._places.root / ASIDE
            taken = [int(entry.name) for entry in top.glob("*") if entry.name.isdecimal()]
            self._folder = top / str(max(taken, default=0) + 1)
            make_directory(self._folder)
        target = self._folder / path.name
        if keep:
            shutil.copy2(path, target)
        else:
            path.rename(target)
            sync_directory(path.parent)
        sync_directory(self._folder)
        return target.relative_to(self._places.root).as_posix()


def _repair_votes(places: DataDirectory, folder: _Aside, name: str) -> list[Damage]:
    path = places.journal / name
    if not path.exists():
        forbid_votes(places, name)
        return [Damage(name, "there is none", "")]
    image = path.read_bytes()
    if not image:
        return [Damage(name, "it is empty", "")]
    if read_journal(image).state is JournalState.DAMAGED:
        return [Damage(name, "a record in it does not check", folder.put(path, keep=True))]
    return []


def _find_damage(database: Path, on_rows: OnRows) -> str | None:
    """Why a database cannot be used; None where every row of it can be read."""
    if not (database / "CURRENT").exists():
        return "there is none" if not database.exists() else "its CURRENT file is missing"
    try:
        index = RocksKeyValue(database)
    except DatabaseLocked:
        raise
    except OSError as error:
        return _damage_in(error)
    try:
        for rows, _ in enumerate(scan_all(index, b""), 1):
            on_rows(rows)
        Ledger(index)
    except OSError as error:
        return _damage_in(error)
    finally:
        index.close()
    return None


def _damage_in(error: OSError) -> str:
    """What is damaged, in RocksDB's words; an error that says nothing of damage is the disk's, and goes on."""
    if isinstance(error, DatabaseCorrupt) or "No such file" in str(error):
        return str(error.__cause__ or error)
    raise error


def _replace_database(places: DataDirectory, folder: _Aside, why: str, now_ms: int) -> list[Damage]:
    """All that the rows spoke of goes aside with them; the database last, so that a crash before finds it damaged again."""
    new = places.database.with_name("db.new")
    shutil.rmtree(new, ignore_errors=True)
    index = RocksKeyValue(new)
    try:
        reserve_sequences(index, now_ms)
    finally:
        index.close()
    found = [
        Damage(part.name, "the database that knew it cannot be used", folder.put(part))
        for part in (places.tiles, places.blobs, places.learner, places.checkpoints)
        if part.exists() and any(part.iterdir())
    ]
    database = Damage("db", why, folder.put(places.database) if places.database.exists() else "")
    new.rename(places.database)
    sync_directory(places.root)
    return [database, *found]


def check_keys_are_back(places: DataDirectory) -> None:
    """Raises ``Rejected(BAD_DATA_DIRECTORY)`` where there are no keys to repair a node with."""
    from node.keys import have_keys

    if not have_keys(places.keys):
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"there are no keys in {places.keys}: copy them there from where you kept them; without them this is a new "
            "node, which `nocknode init --join` makes",
        )
