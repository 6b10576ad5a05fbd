"""Reading a tile of a blob that is certified: a blob whose holders compared their cells with the tables that it names.

``rebuild_tile`` refuses a tile as soon as one cell under its root is not the code's. That is right where nothing but the root
is known. Under a certificate it would be an attack: an author commits to one wrong cell, the liar who is to hold it signs all
the same, two thirds have signed, and nobody could read the tile. What the certificate promises is that the cells that agree
with the table are of one codeword and are enough. So where the root does not hold, the cells that agree are put together.

Both ways give the same data. A root that holds says that every cell under it is of one codeword, those that agree too; and
whether it holds does not depend on which cells were read. A tile whose root does not hold is data and evidence: it can be
read, and it cannot be repaired under this root, because the wrong cell's place has no other proof.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.coded_tables import CheckedTable
from protocol.erasure import CheckedManifest
from protocol.rejection import Reason, Rejected
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.kernel import Kernel
from storage.erasure.tile import CheckedShard, rebuild_data, rebuild_tile


def read_certified(
    code: ErasureCode, kernel: Kernel, manifest: CheckedManifest, table: CheckedTable, shards: Iterable[CheckedShard]
) -> memoryview:
    """The data of the table's tile, without padding, from any K of its cells that agree with the table.

    ``table`` is under the tables' root of a checked certificate of this blob. Raises ``Rejected(TOO_FEW_CELLS)``: more cells
    are to be asked for; where K agree, this never fails.
    """
    chosen = list(shards)
    try:
        return rebuild_tile(code, manifest, table.tile, chosen).data
    except Rejected as rejected:
        if rejected.reason is not Reason.BAD_ENCODING:
            raise
    agreeing = TileCheck.of(kernel, manifest, table.tile).agree(table, chosen)
    data_KN = rebuild_data(code, manifest, table.tile, (each.checked for each in agreeing))
    return data_KN.reshape(-1).data.toreadonly()[: manifest.data_bytes(table.tile)]
