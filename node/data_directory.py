"""Where everything is in a data directory.

D/config.toml          the node's configuration         D/lock       held while a node runs
D/genesis.bin          canonical genesis bytes          D/api.json   where the running node listens
D/keys/*.key           node, vote, account; 0600        D/api.token  bearer token; 0600
D/db/  tiles/  blobs/  index and bytes                  D/api.sock   the same API as a unix socket; 0600
                                                        D/api-keys.json   who else may ask for text; 0600
D/journal/             votes, proposals                 D/log/       JSON lines
D/learner/             residuals, optimiser, deltas
D/incoming/            rows of a state on their way into db/
D/checkpoints/N/       all rows as of height N
D/disagreements/N/     why this machine has another state of height N (node/recovery_disagreement.py)
D/recovery.bin         how the chain goes on after it failed, if config.toml names it (node/fork_rows.py)
D/aside/N/             what was damaged when it was repaired (node/recovery_repair.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 100
"""Unix sockets have names of at most 108 bytes on Linux and 104 on macOS; a longer path gets no socket, only the token."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below one root; makes nothing and reads nothing."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def genesis(self) -> Path:
        return self.root / "genesis.bin"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def database(self) -> Path:
        return self.root / "db"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def tiles(self) -> Path:
        return self.root / "tiles"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def learner(self) -> Path:
        return self.root / "learner"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        return self.root / "log" / "node.log"

    @property
    def api_file(self) -> Path:
        return self.root / "api.json"

    @property
    def api_token(self) -> Path:
        return self.root / "api.token"

    @property
    def api_keys(self) -> Path:
        return self.root / "api-keys.json"

    @property
    def api_socket(self) -> Path:
        return self.root / "api.sock"
