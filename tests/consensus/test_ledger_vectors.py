"""Golden bytes: keys, entries and roots of the state do not change by accident.

To approve a change: ``python -m tests.consensus.test_ledger_vectors`` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consensus.history import History, Onion, mix_beacon
from consensus.state import ACCOUNTS, State
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.ids import AccountId, Digest
from protocol.state_proof import StateProof, SubChain, check_state_proof
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS
from tests.consensus.test_ledger_machine import make_blocks

FILE = Path(__file__).parents[1] / "vectors" / "consensus" / "ledger.json"
NOBODY = AccountId(blob_digest(b"nobody"))


def describe(state: State) -> dict[str, Any]:
    """Every entry under its key, the sub-roots and the root."""
    return {
        "entries": {
            chain.name: {key.hex(): encode(value).hex() for key, value in state.trees[chain].items()}
            for chain in SubChain
        },
        "sub-roots": [root.hex() for root in state.sub_roots()],
        "root": state.root().hex(),
    }


def golden() -> dict[str, Any]:
    """Everything that the file pins, made anew."""
    after = make_blocks()
    history = History.after(blob_digest(b"start"))
    history.advance(1_000)
    history.mix(blob_digest(b"event"))
    history.advance(24)
    onion = Onion(blob_digest(b"secret"), 3)
    return {
        "genesis": describe(GENESIS),
        "after blocks of everything": describe(after),
        "proof of presence": encode(after.prove(ACCOUNTS, ACCOUNT_IDS[0])).hex(),
        "proof of absence": encode(after.prove(ACCOUNTS, NOBODY)).hex(),
        "history": encode(history.cut()).hex(),
        "onion": [onion.commitment.hex(), *(onion.reveal(index).hex() for index in range(3))],
        "beacon": mix_beacon(blob_digest(b"beacon"), blob_digest(b"end"), [onion.reveal(0), onion.reveal(1)]).hex(),
    }


def test_golden_bytes():
    """What is hashed into a state root, and what proves it, has the bytes of the file."""
    assert golden() == json.loads(FILE.read_text())


@pytest.mark.parametrize(("name", "account"), [("presence", ACCOUNT_IDS[0]), ("absence", NOBODY)])
def test_stored_proofs_check(name, account):
    """By the stored root and entries alone."""
    stored = json.loads(FILE.read_text())
    key = ACCOUNTS.prefix + account
    entry = stored["after blocks of everything"]["entries"]["C"].get(key.hex())
    data = bytes.fromhex(stored[f"proof of {name}"])
    root = Digest(bytes.fromhex(stored["after blocks of everything"]["root"]))
    proof = decode(StateProof, data, limit_bytes=len(data))
    check_state_proof(proof, root, SubChain.C, key, bytes.fromhex(entry) if entry else None)


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
