"""Attacks the ledger: well-signed blocks whose body spends what is not there, or whose root says what the body does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from consensus.state import State
from protocol.codec import decode, encode
from protocol.finality import Body, ChainId, OnionReveal, Vote
from protocol.ids import Digest, Signature, View
from protocol.limits import BODY_BYTES_MAX, HISTORY_SEGMENTS
from protocol.transactions import Transaction, Transfer, sign_transaction
from simnet.finality.genesis import ACCOUNT_KEYS, CHAIN, account_of
from simnet.finality.ledger import Site
from simnet.finality.payments import BODY_BYTES_USUAL, FEE_NANO, draw_transactions
from simnet.finality.villains.villain import Villain

AMOUNT_NANO: Final = 1_000
THIEF: Final = ACCOUNT_KEYS[-1]
VICTIM: Final = ACCOUNT_KEYS[0]


class Forger(Villain):
    """One forgery a block; sometimes the others hear a good one. It votes for everything, so that its own gets far."""

    SUMMARY = "proposes blocks that spend money that is not there, print some in the state root, or name another body's"

    def on_vote(self, vote: Vote) -> None:
        self.second(vote)

    def lead(self, view: View) -> None:
        grounds, random_ = self.grounds(view), self.world.random
        if not grounds:
            return
        header = self.make_header(view, grounds[0])
        honest = forged = self.propose(header, grounds[0])
        state = self.world.memo.find_state(self.parent_root(grounds[0]))
        if state is not None:
            forge = FORGERIES[random_.choice(tuple(FORGERIES))]
            body, root = forge(self, state, Site.of(header, self.world.sets.roster(self.epoch)))
            wrong = replace(header, body_root=self.keep_body(body), body_bytes=len(body), state_root=root)
            forged = self.propose(wrong, grounds[0])
        share = random_.choice((0.0, 0.5))
        for to in self.others:
            self.send(to, honest if random_.random() < share else forged)

    def build_well(self, state: State, site: Site) -> tuple[bytes, State]:
        """What an honest leader might, and the state after it."""
        candidates = draw_transactions(self.world.random, state, BODY_BYTES_USUAL)
        body, root = self.build(state, site, candidates)
        return body, self.world.memo.find_state(root) or state


# -- bodies that are no bodies, under the root of the block below -------------------------------------------------------


def _pay(state: State, nonces_ahead: int = 0, fee_nano: int = FEE_NANO[0], chain: ChainId = CHAIN) -> Transaction:
    """From the victim to the thief."""
    nonce = state.account(account_of(VICTIM)).nonce + nonces_ahead
    return sign_transaction(VICTIM, chain, nonce, fee_nano, Transfer(account_of(THIEF), AMOUNT_NANO))


def _hold(state: State, *transactions: Transaction) -> tuple[bytes, Digest]:
    return encode(Body((), tuple(map(encode, transactions)))), state.root()


def _overspent(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, _pay(state, fee_nano=state.account(account_of(VICTIM)).balance_nano + 1))


def _unpaid(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, _pay(state, fee_nano=0))


def _twice(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, _pay(state), _pay(state))


def _early(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, _pay(state, nonces_ahead=1))


def _unsigned(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, replace(_pay(state), signature=Signature(bytes(64))))


def _of_another_fork(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return _hold(state, _pay(state, chain=ChainId(CHAIN.chain, CHAIN.fork + 1)))


def _word_of_nobody(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return encode(Body((), (), OnionReveal(state.root()))), state.root()


def _other_history(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    """Of the right length; where none is due it is one too many."""
    return encode(Body((), (), None, (state.root(),) * HISTORY_SEGMENTS)), state.root()


def _no_history(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    """A good body, but at a boundary."""
    body = decode(Body, forger.build_well(state, site)[0], limit_bytes=BODY_BYTES_MAX)
    return encode(replace(body, history=())), state.root()


def _noise(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return forger.world.random.randbytes(100), state.root()


# -- good bodies under a root that is not theirs ------------------------------------------------------------------------


def _printed(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    body, after = forger.build_well(state, site)
    return body, after.add_balance(account_of(THIEF), AMOUNT_NANO).root()


def _stolen(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    """No money is made: it has another owner."""
    body, after = forger.build_well(state, site)
    taken = min(AMOUNT_NANO, after.account(account_of(VICTIM)).balance_nano)
    robbed = after.add_balance(account_of(VICTIM), -taken)
    return body, robbed.add_balance(account_of(THIEF), taken).root()


def _not_done(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return forger.build_well(state, site)[0], state.root()


def _of_another_body(forger: Forger, state: State, site: Site) -> tuple[bytes, Digest]:
    return forger.build_well(state, site)[0], forger.build_well(state, site)[1].root()


Forgery = Callable[[Forger, State, Site], tuple[bytes, Digest]]
FORGERIES: Final[dict[str, Forgery]] = {
    "a fee beyond the balance": _overspent,
    "no fee": _unpaid,
    "one payment twice": _twice,
    "a payment before its turn": _early,
    "a payment that nobody signed": _unsigned,
    "a payment on another fork": _of_another_fork,
    "a word of nobody's onion": _word_of_nobody,
    "another history": _other_history,
    "a boundary without history": _no_history,
    "noise": _noise,
    "money from nowhere": _printed,
    "somebody else's money": _stolen,
    "payments that are not made": _not_done,
    "the root of another body": _of_another_body,
}
