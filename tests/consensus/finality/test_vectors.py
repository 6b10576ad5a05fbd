"""Golden bytes: vote texts, block ids, certificates and journal records do not change by accident.

To approve a change: ``python -m tests.consensus.finality.test_vectors`` writes the file anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from consensus.finality.schedule import Schedule
from consensus.finality.signer import ExecutedBlock, VoteSigner
from consensus.finality.tally import build_certificate, check_certificate, signers_of
from protocol.codec import decode, encode
from protocol.finality import NO_BLOCK, Certificate, VoteKind, vote_text
from protocol.ids import View
from protocol.keys import KeyPair
from simnet.finality.genesis import CHAIN, RULE, make_keys, make_roster
from tests.consensus.finality.test_core import header, proposal

FILE = Path(__file__).parents[2] / "vectors" / "consensus" / "finality.json"
KEYS = make_keys(10, KeyPair)
ROSTER = make_roster(KEYS)


def golden() -> dict[str, Any]:
    """Everything that the file pins, made anew. Ed25519 signatures are deterministic."""
    block = header(1).digest()
    signed = [VoteSigner(key, CHAIN, ROSTER).notarize(View(5), ExecutedBlock(block)) for key in KEYS]
    votes = [each.vote for each in signed if each is not None]
    schedule = Schedule(ROSTER, RULE)
    return {
        "vote texts": {
            kind.name: vote_text(CHAIN, 0, 5, kind, NO_BLOCK if kind is VoteKind.NULLIFY else block).hex()
            for kind in VoteKind
        },
        "header": encode(header(1)).hex(),
        "block id": block.hex(),
        "roster": ROSTER.digest().hex(),
        "proposal": encode(proposal(header(1))).hex(),
        "vote": encode(votes[9]).hex(),
        "journal record": signed[9].record.hex() if signed[9] else "",
        "certificate": encode(build_certificate([votes[index] for index in (9, 0, 2, 3, 4, 7, 8)], ROSTER)).hex(),
        "leaders of views 1 to 20": [schedule.leader(View(view)) for view in range(1, 21)],
    }


def test_golden_bytes():
    """What is signed, hashed and sent has the bytes of the file."""
    assert golden() == json.loads(FILE.read_text())


def test_golden_certificate_checks():
    """The certificate of the file decodes and verifies: members 0, 2, 3, 4, 7, 8, 9 of ten."""
    data = bytes.fromhex(json.loads(FILE.read_text())["certificate"])
    certificate = decode(Certificate, data, limit_bytes=len(data))
    check_certificate(certificate, ROSTER, CHAIN)
    assert signers_of(certificate) == [0, 2, 3, 4, 7, 8, 9]
    assert certificate.signers == bytes([0b10011101, 0b00000011])


def test_sizes_of_the_design():
    """A vote is at most 120 bytes, a certificate of four members at most 300 (chain.md 2.2 counts 109 and 239)."""
    keys = make_keys(4, KeyPair)
    roster = make_roster(keys)
    signed = [VoteSigner(key, CHAIN, roster).notarize(View(5), ExecutedBlock(header(1).digest())) for key in keys]
    votes = [each.vote for each in signed if each is not None]
    assert len(encode(votes[0])) <= 120
    assert len(encode(build_certificate(votes[:3], roster))) <= 300


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(golden(), indent=1) + "\n")
