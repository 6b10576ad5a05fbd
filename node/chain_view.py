"""What people and programs see of the chain: plain facts for JSON, made from the decided state when they are asked for.

Read-only but for ``submit``, which hands a checked transaction to the node's one door. Amounts are integers of 10^-9 NOCK
(``_nano``), accounts and peers their texts, digests and keys hexadecimal. Every answer is bounded: a list that may be long says
how long it is and shows a part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from consensus.custody_answers import find_question, is_jailed
from consensus.epochs import first_height_of
from consensus.finality import Statistics
from consensus.kept import kept_blobs
from consensus.mempool import Mempool
from consensus.state import EPOCH_MARKS, TREASURY, VALIDATOR_INDEX, VALIDATORS, State, Validator
from node.account_address import account_text
from node.chain_index import TransactionRow, find_transaction
from node.chain_proof import CERTIFICATE_BYTES_MAX, HEADER_BYTES_MAX, make_proof, parse_key
from node.chain_words import head_facts, kept_blob_facts, plain, refusal_facts, transaction_facts
from protocol.codec import decode
from protocol.digest import number
from protocol.epochs import boundary_of
from protocol.finality import Body, Certificate, Header
from protocol.genesis import Genesis
from protocol.ids import AccountId, Digest, Height, PeerId, peer_text
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.state_proof import SubChain
from protocol.transactions import Register, read_transaction, transaction_id
from storage.keys import CERTIFICATE, HEADER, block_key
from storage.kv import KeyValue
from storage.ledger import Ledger

Facts = Mapping[str, Any]

TRANSACTIONS_SHOWN_MAX: Final = 256  # of a block, at once
KEPT_SHOWN_MAX: Final = 256  # at once
PROPOSERS_LOOKED_AT: Final = 100  # newest blocks in which proposers are counted: as many as a roster has members
WRITTEN_SECONDS_MAX: Final = 2.0  # that a block takes from being decided to being on disk: a hundredth of it, usually
WRITTEN_POLL_SECONDS: Final = 0.01
_HEIGHT_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ChainView:
    """The API's side of the chain. Callables give what changes; each is called once for an answer."""

    genesis: Genesis
    pool: Mempool
    ledger: Ledger
    index: KeyValue  # where ``node.chain_index`` wrote its rows, and the ledger its blocks
    state: Callable[[], State]  # after the ledger's tip
    finality: Callable[[], Statistics]
    roster: Callable[[], Roster]  # who votes about the next block
    now_ms: Callable[[], int]  # the wall clock
    hand_over: Callable[[bytes], Awaitable[Digest]]  # checks, takes, spreads; the id, or ``Rejected``
    dropped: Callable[[Digest], Reason | None] = lambda name: None  # why a transaction left the pool without a block
    connected: Callable[[], Collection[PeerId]] = tuple
    next_roster: Callable[[], Roster | None] = lambda: None  # of the next epoch, once it is known
    me: PeerId | None = None

    # -- the chain ------------------------------------------------------------------------------------------------------

    def status(self) -> Facts:
        """height, oldest_height (of the blocks kept here; 0 before the first), chain_bytes (that they take), epoch, view, block
        (hash) or None, finalized_ms, finality_lag_seconds, state_root, sub_roots {chain: root},
        supply {minted_nano, balances_nano, staked_nano, unbonding_nano, burned_nano, fees_nano}, treasury_nano, pool
        {transactions, bytes, senders}, leader (peer) or None, roster, validators, validators_connected, certificate_votes,
        votes, refusal (why this node does not vote) or None, halted or None, network_id, chain, fork, fee_nano_per_byte,
        stake_nano_min."""
        state, finality, roster = self.state(), self.finality(), self.roster()
        header, here, kept = self._tip_header(), self._here(), self.ledger.statistics()
        finalized_ms = self.genesis.created_ms if header is None else header.time_ms
        pool = self.pool.statistics()
        return {
            "height": 0 if header is None else header.height,
            "oldest_height": kept.oldest_height,
            "chain_bytes": kept.bytes_used,
            "epoch": roster.epoch,
            "view": finality.view,
            "block": None if header is None else header.digest().hex(),
            "finalized_ms": finalized_ms,
            "finality_lag_seconds": max(0, self.now_ms() - finalized_ms) / 1000,
            "state_root": state.root().hex(),
            "sub_roots": {
                chain.name.lower(): root.hex() for chain, root in zip(SubChain, state.sub_roots(), strict=True)
            },
            "supply": plain(state.supply),
            "treasury_nano": state.account(TREASURY).balance_nano,
            "pool": {"transactions": pool.transactions, "bytes": pool.bytes_held, "senders": pool.senders},
            "leader": self._leader(finality, roster),
            "roster": len(roster.members),
            "validators": len(state.get(VALIDATOR_INDEX).nodes),
            "validators_connected": sum(member.node in here for member in roster.members),
            "certificate_votes": self._certificate_votes(),
            "votes": finality.votes_cast,
            "refusal": self._refusal(finality, roster),
            "halted": finality.halted,
            "network_id": self.genesis.network_id().hex(),
            **self._terms(),
        }

    def block(self, height: int, first: int = 0) -> Facts | None:
        """Header fields, block (hash), proposer_peer or None, certificate {votes, view} or None, heads, transactions
        (at most ``TRANSACTIONS_SHOWN_MAX`` from ``first`` on), transactions_total, history (the ends of its segments, none as a
        rule); None where no block is kept."""
        kept = self.ledger.find(Height(height)) if 0 < height <= _HEIGHT_MAX else None
        if kept is None:
            return None
        header = decode(Header, kept.header, limit_bytes=HEADER_BYTES_MAX)
        body = decode(Body, kept.body, limit_bytes=BODY_BYTES_MAX)
        shown = body.transactions[first : first + TRANSACTIONS_SHOWN_MAX]
        certificate = _certificate(kept.certificate)
        return {
            **{name: plain(getattr(header, name)) for name in header.__struct_fields__},
            "block": header.digest().hex(),
            "proposer_peer": self._proposer(header),
            "certificate": None if certificate is None else {"votes": _votes(certificate), "view": certificate.view},
            "heads": [head_facts(head) for head in body.heads],
            "transactions": [
                {"index": index, **self._included_facts(data)} for index, data in enumerate(shown, start=first)
            ],
            "transactions_total": len(body.transactions),
            "history": [end.hex() for end in body.history],
        }

    def transaction(self, name: Digest) -> Facts | None:
        """id, state ("waiting", "final" or "dropped"), height, index, refusal {code, message} or None, and what it does where
        its bytes are still here; None for one of which this node knows nothing, or nothing any more."""
        row = find_transaction(self.index, name)
        if row is not None:
            place = {"id": name.hex(), "state": "final", "height": row.height, "index": row.index}
            return {**place, "refusal": refusal_facts(row.reason), **self._kept_facts(row)}
        nowhere = {"height": None, "index": None}
        waiting = self.pool.find_id(name)
        if waiting is not None:
            facts = {"size_bytes": waiting.size_bytes, **transaction_facts(waiting.plain)}
            return {"id": name.hex(), "state": "waiting", **nowhere, "refusal": None, **facts}
        reason = self.dropped(name)
        if reason is None:
            return None
        return {"id": name.hex(), "state": "dropped", **nowhere, "refusal": refusal_facts(reason)}

    async def proof(self, key: str) -> Facts:
        """The fields of ``node.chain_proof.ProofDocument``; raises ``Rejected`` as ``parse_key``, and BUSY when the disk hangs.

        A block is decided a moment before it is written; until it is, nothing shows that the state is its.
        """
        parse_key(key)
        with trio.move_on_after(WRITTEN_SECONDS_MAX):
            while True:
                state, header = self.state(), self._tip_header()
                if header is None and self.finality().finalized_height == 0:
                    return msgspec.structs.asdict(make_proof(state, key, 0, None, None))
                if header is not None and header.state_root == state.root():
                    kept = self.ledger.get(header.height)
                    return msgspec.structs.asdict(make_proof(state, key, header.height, kept.header, kept.certificate))
                await trio.sleep(WRITTEN_POLL_SECONDS)
        raise Rejected(Reason.BUSY, "the newest block is not written yet; ask again")

    def epoch(self) -> Facts:
        """That of the next block: epoch, first_height, last_height, blocks (of it, so far), began_ms or None before its first
        block, roster {epoch, digest, beacon, weight_total, members [{node, weight}]}, next_roster (the same) or None."""
        roster, next_roster, heights = self.roster(), self.next_roster(), self.genesis.chain.epoch_heights
        before = boundary_of(roster.epoch - 1, heights)
        mark = self.state().find(EPOCH_MARKS, number(roster.epoch))
        return {
            "epoch": roster.epoch,
            "first_height": before + 1,
            "last_height": boundary_of(roster.epoch, heights),
            "blocks": max(0, (self.ledger.tip() or 0) - before),
            "began_ms": None if mark is None else mark.time_ms,
            "roster": _roster_facts(roster),
            "next_roster": None if next_roster is None else _roster_facts(next_roster),
        }

    def kept(self, first: int = 0) -> Facts:
        """What more than two thirds of a roster keep as cells, what was recorded last comes first: kept (at most
        ``KEPT_SHOWN_MAX`` from ``first`` on, each as in ``node.chain_words.kept_blob_facts``), kept_total, bytes_total (of
        the blobs, not of their cells)."""
        entries = sorted(kept_blobs(self.state()), key=lambda entry: (-entry.height, entry.subject.digest()))
        return {
            "kept": [kept_blob_facts(entry) for entry in entries[first : first + KEPT_SHOWN_MAX]],
            "kept_total": len(entries),
            "bytes_total": sum(entry.size_bytes for entry in entries),
        }

    # -- accounts and validators ----------------------------------------------------------------------------------------

    def account(self, account: AccountId) -> Facts:
        """address, balance_nano, nonce, next_nonce (behind what waits in the pool), validators (as ``validators``), height,
        time_ms (of the last block), and the terms: chain, fork, fee_nano_per_byte, stake_nano_min. An account that nobody
        ever paid has nothing."""
        state = self.state()
        entry = state.account(account)
        mine = [validator for validator in state.validators() if validator.card.account == account]
        return {
            "address": account_text(account),
            "balance_nano": entry.balance_nano,
            "nonce": entry.nonce,
            "next_nonce": self.pool.next_nonce(account, state),
            "validators": list(self._validators(state, mine)),
            "height": self.ledger.tip() or 0,
            "time_ms": self._time_ms(),
            **self._terms(),
        }

    def validators(self) -> list[Facts]:
        """Of each: node, short, account, status, stake_nano, weight and weight_share in the roster (0 outside), in_roster,
        in_next_roster or None where that is not known, votes_from_height (where its registration is too new to vote about the
        next block: from which on it may; else None), jailed_until (the last epoch for whose roster it is not chosen) or None,
        custody {epoch, subject, tile, position, leaf, answered_height or None} (what it must show) or None, connected, is_self,
        proposed (of the newest blocks of this epoch, at most ``PROPOSERS_LOOKED_AT``), unbonding [{amount_nano,
        release_ms, release_height, milliseconds_left, blocks_left}]."""
        return list(self._validators(self.state()))

    def members(self) -> list[Facts]:
        """Those of ``validators`` that vote about the next block."""
        state = self.state()
        found = (state.find(VALIDATORS, member.node) for member in self.roster().members)
        return list(self._validators(state, [entry for entry in found if entry is not None]))

    def validator(self, node: PeerId) -> Facts | None:
        """One of ``validators``."""
        state = self.state()
        entry = state.find(VALIDATORS, node)
        return None if entry is None else next(self._validators(state, [entry]))

    # -- change ---------------------------------------------------------------------------------------------------------

    async def submit(self, data: bytes, *, only: type | None = None) -> Facts:
        """Hand over the bytes of a signed transaction: id, state. ``only`` is the one kind that the caller takes.

        Raises ``Rejected``: as ``check_transaction``; ALREADY_RECORDED when it is in a block; as ``Mempool.add``.
        """
        row = find_transaction(self.index, transaction_id(data))
        if row is not None:
            raise Rejected(Reason.ALREADY_RECORDED, f"the transaction is in block {row.height}")
        if only is not None:
            transaction = read_transaction(data)
            if not isinstance(transaction.payload, only):
                raise Rejected(Reason.BAD_ARGUMENT, f"this takes {only.__name__} transactions only")
        name = await self.hand_over(data)
        return {"id": name.hex(), "state": "waiting"}

    async def register(self, data: bytes) -> Facts:
        """``submit``, for the registration of a validator only."""
        return await self.submit(data, only=Register)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _terms(self) -> dict[str, Any]:
        """What a sender must know to sign."""
        rule = self.pool.rule
        return {
            "chain": self.pool.chain.chain.hex(),
            "fork": self.pool.chain.fork,
            "fee_nano_per_byte": rule.fee_nano_per_byte,
            "stake_nano_min": rule.stake_nano_min,
        }

    def _header(self, height: int) -> Header | None:
        """Of a block, without its body."""
        data = self.index.get(block_key(HEADER, Height(height)))
        return None if data is None else decode(Header, data, limit_bytes=HEADER_BYTES_MAX)

    def _tip_header(self) -> Header | None:
        tip = self.ledger.tip()
        return None if tip is None else self._header(tip)

    def _time_ms(self) -> int:
        header = self._tip_header()
        return self.genesis.created_ms if header is None else header.time_ms

    def _here(self) -> frozenset[PeerId]:
        """Whom we reach, ourselves included."""
        return frozenset(self.connected()) | ({self.me} if self.me is not None else frozenset())

    def _leader(self, finality: Statistics, roster: Roster) -> str | None:
        members = roster.members
        return peer_text(members[finality.leader].node) if finality.leader < len(members) else None

    def _refusal(self, finality: Statistics, roster: Roster) -> str | None:
        if finality.refusal is None and self.me is not None and roster.find_index(self.me) is None:
            return "this node is not in the roster of this epoch"
        return finality.refusal

    def _certificate_votes(self) -> int | None:
        """How many members' votes are in the newest certificate; None before there is one."""
        tip = self.ledger.tip()
        certificate = None if tip is None else _certificate(self.index.get(block_key(CERTIFICATE, tip)) or b"")
        return None if certificate is None else _votes(certificate)

    def _proposer(self, header: Header) -> str | None:
        """Who proposed a block, where its roster is the one that we have."""
        roster = self.roster()
        is_ours = header.epoch == roster.epoch and header.proposer < len(roster.members)
        return peer_text(roster.members[header.proposer].node) if is_ours else None

    def _proposed(self, roster: Roster) -> dict[PeerId, int]:
        """How many of the newest blocks of the roster's epoch each member proposed."""
        counts = {member.node: 0 for member in roster.members}
        tip = self.ledger.tip() or 0
        for height in range(tip, max(0, tip - PROPOSERS_LOOKED_AT), -1):
            header = self._header(height)
            if header is None or header.epoch != roster.epoch or header.proposer >= len(roster.members):
                break
            counts[roster.members[header.proposer].node] += 1
        return counts

    def _validators(self, state: State, entries: Collection[Validator] | None = None) -> Iterator[dict[str, Any]]:
        roster, next_roster = self.roster(), self.next_roster()
        weights = {member.node: weight for member, weight in zip(roster.members, roster.weights, strict=True)}
        following = None if next_roster is None else {member.node for member in next_roster.members}
        proposed, total, here = self._proposed(roster), roster.weight_total, self._here()
        height, time_ms = self.ledger.tip() or 0, self._time_ms()
        for entry in state.validators() if entries is None else entries:
            node = entry.card.node
            weight = weights.get(node, 0)
            text = peer_text(node)
            first = first_height_of(entry.registered_height, self.genesis.chain.epoch_heights)
            yield {
                "node": text,
                "short": text[-6:],
                "account": account_text(entry.card.account),
                "status": entry.status.name.lower(),
                "stake_nano": entry.stake_nano,
                "weight": weight,
                "weight_share": weight / total if total else 0.0,
                "in_roster": node in weights,
                "in_next_roster": None if following is None else node in following,
                "votes_from_height": first if first > height + 1 else None,
                "jailed_until": entry.jailed_until if is_jailed(entry, roster.epoch) else None,
                "custody": plain(find_question(state, node)),
                "connected": node in here,
                "is_self": node == self.me,
                "proposed": proposed.get(node, 0),
                "unbonding": [
                    {
                        **plain(each),
                        "milliseconds_left": max(0, each.release_ms - time_ms),
                        "blocks_left": max(0, each.release_height - height),
                    }
                    for each in entry.unbonding
                ],
            }

    def _included_facts(self, data: bytes) -> dict[str, Any]:
        """A transaction of a finalized body: whoever voted for it has checked its signature."""
        name = transaction_id(data)
        row = find_transaction(self.index, name)
        transaction = read_transaction(data)
        return {
            "id": name.hex(),
            "size_bytes": len(data),
            **transaction_facts(transaction),
            "refusal": refusal_facts(row.reason if row else None),
        }

    def _kept_facts(self, row: TransactionRow) -> dict[str, Any]:
        """What a transaction or head does: its row goes with its block."""
        body = decode(Body, self.ledger.get(row.height).body, limit_bytes=BODY_BYTES_MAX)
        if row.is_head:
            return {"kind": "tile", "sender": None, **head_facts(body.heads[row.index])}
        data = body.transactions[row.index]
        return {"size_bytes": len(data), **transaction_facts(read_transaction(data))}


def _certificate(data: bytes) -> Certificate | None:
    """A ledger's certificate; a block that a later one's certificate finalized has none."""
    return decode(Certificate, data, limit_bytes=CERTIFICATE_BYTES_MAX) if data else None


def _votes(certificate: Certificate) -> int:
    return int.from_bytes(certificate.signers, "little").bit_count()


def _roster_facts(roster: Roster) -> dict[str, Any]:
    return {
        "epoch": roster.epoch,
        "digest": roster.digest().hex(),
        "beacon": roster.beacon.hex(),
        "weight_total": roster.weight_total,
        "members": [
            {"node": peer_text(member.node), "weight": weight}
            for member, weight in zip(roster.members, roster.weights, strict=True)
        ],
    }
