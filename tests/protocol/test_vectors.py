"""Golden bytes: formats change by decision (`make vectors-approve`), never by accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.availability import check_availability_certificate
from protocol.availability import AvailabilityCertificate, check_claim
from protocol.cells import CellRequest, Cells, KeepAnswer, Leaf, Manifest, Tables
from protocol.codec import decode, encode
from protocol.coded_tables import TileTable, check_table
from protocol.digest import Domain, digest
from protocol.envelope import SequenceWindows, open_envelope
from protocol.erasure import LeafProof, Shard, check_manifest
from protocol.finality import ChainId
from protocol.genesis import Genesis, check_genesis
from protocol.ids import Digest, NetworkId, parse_peer
from protocol.keys import verify
from protocol.limits import KIB, SHARD_BYTES_MAX, TABLE_BYTES_MAX
from storage.erasure.check import TileCheck
from storage.erasure.tile import check_leaf, check_shard
from storage.io.isal import open_kernel
from tests.protocol.samples import genesis as sample_genesis
from tests.protocol.samples import roster

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "vectors" / "protocol"


def stored(name: str) -> dict:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_code_makes_the_golden_bytes_under_any_hash_seed(hash_seed: str) -> None:
    """No order of a set or a dictionary enters a format. A difference is approved by `make vectors-approve`, or is a bug."""
    answer = subprocess.run(
        [sys.executable, "-m", "tools.vectors", "--print"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    )
    made = json.loads(answer.stdout)
    assert sorted(made) == sorted(path.name for path in FOLDER.glob("*.json"))
    for name, text in made.items():
        assert json.loads(text) == stored(name), f"{name} changed: see `make vectors`, decide, `make vectors-approve`"


def test_every_domain_has_a_vector() -> None:
    """A new word brings one, and a stored digest is what the word gives."""
    words = {word for name, word in vars(Domain).items() if name.isupper()}
    vectors = stored("digest.json")
    assert set(vectors) == words
    for word, cases in vectors.items():
        for case in cases:
            assert digest(word, *map(bytes.fromhex, case["parts"])).hex() == case["digest"]


def test_stored_keys_are_those_of_rfc_8032() -> None:
    """The first vector's key is the one that every implementation derives from a seed of zeros."""
    vectors = stored("keys.json")
    assert vectors["00" * 32]["public"] == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    for entry in vectors.values():
        public = bytes.fromhex(entry["public"])
        assert parse_peer(entry["peer"]) == public
        assert verify(public, b"nock", bytes.fromhex(entry["signature of 'nock'"]))


def test_stored_envelopes_open() -> None:
    """What was sealed in the past is understood today."""
    for entry in stored("envelope.json").values():
        now_ms = max(0, entry["expires_ms"])
        envelope = open_envelope(bytes.fromhex(entry["envelope"]), NetworkId(bytes(32)), now_ms, SequenceWindows())
        assert (envelope.kind, envelope.sequence) == (entry["kind"], entry["sequence"])
        assert envelope.payload.hex() == entry["payload"]


def test_the_stored_genesis_is_accepted_under_its_stored_id() -> None:
    """A network founded in the past can be joined today."""
    vectors = stored("genesis.json")
    document = bytes.fromhex(vectors["document"])
    genesis = check_genesis(document, NetworkId(bytes.fromhex(vectors["network id"])))
    assert encode(genesis) == document
    assert decode(Genesis, document, limit_bytes=len(document)) == genesis


def test_the_stored_cells_are_proved_and_rebuild_their_blob() -> None:
    """What was coded in the past is read today: the manifest leads to its root, a cell and a leaf lead to their tile's."""
    vectors = stored("erasure.json")
    manifest = check_manifest(bytes.fromhex(vectors["manifest"]), Digest(bytes.fromhex(vectors["blob root"])))
    shard = decode(Shard, bytes.fromhex(vectors["shard"]), limit_bytes=SHARD_BYTES_MAX)
    assert check_shard(manifest, shard).shard == shard
    leaf = decode(LeafProof, bytes.fromhex(vectors["leaf"]), limit_bytes=SHARD_BYTES_MAX)
    assert check_leaf(manifest, leaf) == shard.data
    # Three data cells at 0, 1, 2 and parity at 3 ... 6: 1/3, 1/2, 1/1 and so on, in GF(2^8) modulo 0x11D.
    inverses = {1: 0x01, 2: 0x8E, 3: 0xF4, 4: 0x47, 5: 0xA7, 6: 0x7A, 7: 0xBA}
    expected = bytes(inverses[parity ^ data] for parity in range(3, 7) for data in range(3))
    assert bytes.fromhex(vectors["matrix 3+4"]) == expected


def test_a_stored_certificate_and_cell_say_the_same() -> None:
    """Of the past: the cell agrees with its table, the table leads to the root, two thirds signed for both roots."""
    vectors = stored("availability.json")
    manifest = check_manifest(bytes.fromhex(vectors["manifest"]), Digest(bytes.fromhex(vectors["blob root"])))
    (certificate,) = vectors["certificate"]
    plain = decode(AvailabilityCertificate, bytes.fromhex(certificate), limit_bytes=8 * KIB)
    chain = ChainId.of(sample_genesis().network_id())
    claim = check_availability_certificate(plain, roster(1, 0, 5, 3), chain).claim
    assert check_claim(claim, manifest).text(chain).hex() == vectors["text"]
    tables = [
        check_table(manifest, claim.tables, decode(TileTable, bytes.fromhex(each), limit_bytes=TABLE_BYTES_MAX))
        for each in vectors["tables"]
    ]
    shard = check_shard(manifest, decode(Shard, bytes.fromhex(vectors["last shard"]), limit_bytes=SHARD_BYTES_MAX))
    check = TileCheck.of(open_kernel(), manifest, shard.shard.tile)
    assert [each.checked for each in check.check(tables[shard.shard.tile], [shard])] == [shard]


def test_stored_answers_about_cells_lead_to_the_stored_question() -> None:
    """Of the past: what was asked for then is proved by what was answered then."""
    vectors = {name: bytes.fromhex(text) for name, text in stored("cells.json").items() if isinstance(text, str)}
    asked = {
        name: decode(CellRequest, data, limit_bytes=KIB) for name, data in vectors.items() if name.startswith("get ")
    }
    given = decode(Manifest, vectors["manifest"], limit_bytes=KIB)
    manifest = check_manifest(given.data, asked["get manifest"].blob)
    (table,) = decode(Tables, vectors["tables"], limit_bytes=TABLE_BYTES_MAX).tables
    checked = check_table(manifest, asked["get tables"].tables, table)
    (shard,) = decode(Cells, vectors["cells"], limit_bytes=SHARD_BYTES_MAX).shards
    assert TileCheck.of(open_kernel(), manifest, 0).check(checked, [check_shard(manifest, shard)])
    leaf = decode(Leaf, vectors["leaf"], limit_bytes=SHARD_BYTES_MAX).proof
    assert check_leaf(manifest, leaf) == shard.data
    assert (leaf.tile, leaf.cell, leaf.leaf) == (0, asked["get leaf"].cell, asked["get leaf"].leaf)
    assert decode(KeepAnswer, vectors["not kept yet"], limit_bytes=KIB).vote is None
