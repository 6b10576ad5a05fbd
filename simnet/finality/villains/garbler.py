"""Sends bytes that are almost messages, and messages that decode but cannot be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar, Final

from msgspec.structs import replace

from protocol.codec import encode
from protocol.finality import NO_BLOCK, BodyMessage, Certificate, Proposal, ValidatorMessage, Vote, VoteKind, Want
from protocol.ids import Digest, Epoch, MemberIndex, Signature
from simnet.finality.villains.villain import Villain

Garble = Callable[[random.Random, bytes], bytes]

BYTES: Final[dict[str, Garble]] = {
    "flipped": lambda random_, data: _flip(random_, data),
    "cut short": lambda random_, data: data[: random_.randrange(len(data))],
    "trailing": lambda random_, data: data + random_.randbytes(random_.randrange(1, 9)),
    "noise": lambda random_, data: random_.randbytes(len(data)),
    "deep": lambda random_, data: b"\x91" * 4_000,
    "huge length": lambda random_, data: b"\xdd\xff\xff\xff\xff",
    "nothing": lambda random_, data: b"",
}


def _flip(random_: random.Random, data: bytes) -> bytes:
    at = random_.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :]


class Garbler(Villain):
    """Every message that it could send, broken in one place."""

    SUMMARY = "sends bytes that are almost messages, and votes and certificates whose parts do not fit together"
    TICK_MS: ClassVar[tuple[int, int]] = (50, 300)

    def tick(self) -> None:
        random_ = self.world.random
        message = random_.choice(self._messages())
        if random_.random() < 0.5:
            self.broadcast(BYTES[random_.choice(tuple(BYTES))](random_, encode(message)))
        else:
            self.broadcast(message)

    def _messages(self) -> list[ValidatorMessage]:
        vote = self.vote(self.view, VoteKind.NULLIFY)
        block = next(reversed(self.headers), NO_BLOCK)
        found: list[ValidatorMessage] = [
            replace(vote, signer=MemberIndex(self.place + 1)),  # another's name under our signature
            replace(vote, signer=MemberIndex(self.world.count)),
            replace(vote, epoch=Epoch(self.epoch + 1)),
            replace(vote, kind=VoteKind.FINALIZE),
            replace(vote, block=Digest(b"\x01" * 32)),
            replace(vote, signature=Signature(bytes(64))),
            BodyMessage(block, b"no such body"),
            BodyMessage(Digest(b"\x02" * 32), b"of no block"),
            Want((block,) * 64),
        ]
        for held in list(self.certificates.values())[-1:]:
            for certificate in held.values():
                found += self._broken_certificates(certificate)
        if block in self.headers:
            found.append(self._broken_proposal(block, vote))
        return found

    def _broken_certificates(self, certificate: Certificate) -> list[ValidatorMessage]:
        signatures = certificate.signatures
        return [
            replace(certificate, signatures=signatures[:-1]),
            replace(certificate, signatures=signatures[::-1]),
            replace(certificate, signers=bytes(len(certificate.signers))),
            replace(certificate, signers=b"\xff" * len(certificate.signers)),
            replace(certificate, signers=certificate.signers + b"\x00"),
            replace(certificate, signers=b""),
            replace(certificate, epoch=Epoch(self.epoch + 1)),
            replace(certificate, epoch=Epoch(max(0, self.epoch - 1))),
            replace(certificate, block=Digest(b"\x03" * 32)),
            replace(certificate, kind=VoteKind.FINALIZE),
        ]

    def _broken_proposal(self, block: Digest, vote: Vote) -> Proposal:
        """Somebody's block with our vote under it."""
        return Proposal(self.headers[block], None, (), vote)
