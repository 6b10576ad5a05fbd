"""The chain on one core and on two: transfers, blocks, agreement, and the proof that needs no chain.

    transfers     1,000 of them between different accounts in one block, in a state of many accounts; "applied" is from checked
                  transactions to the new state root. Floor: libsodium verifying as many signatures and nothing else
    history       16 segments of 65,536 ticks each, verified in threads and in processes, beside one after the other. Wall time,
                  and what starting a process takes is in it
    two cores     block after block: the signatures of the next one are verified elsewhere while this one is applied. Wall time
    blocks        check_chain over empty blocks, the last certificate's signatures being known. Floor: two hashes a block
    finality      four members over links of one constant delay: from a proposal to its block's finality, in delays
    loopback      the same over real sockets of this machine, in delays of a message as measured there
    light client  1,000 epochs, all of them shown, and as the prover skips; members come and go. Floor: the proof's signatures

Rates are of processor time, where nothing else is said.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Final

import click
import trio
from msgspec.structs import replace

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options, time_calls
from benchmarks.common.loopback import finalize_over_loopback
from consensus.finality import Evidence, check_chain
from consensus.heads import HeadRules
from consensus.history import walk_segments
from consensus.light_client import Trust, build_light_client_proof, check_light_client_proof
from consensus.mempool import Mempool
from consensus.state import State, genesis_state
from consensus.transition import BlockContext, apply_block
from node.history_work import HistoryWork, share_out, usable_cores
from node.history_worker import are_right
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.finality import EMPTY_BODY, NO_BLOCK, Certificate, ChainId, FinalizedBlock, Proposal, VoteKind, body_root
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Digest, Epoch, Height, MemberIndex, PeerId
from protocol.keys import KeyPair, verify
from protocol.light_client import LightBlock, LightClientProof, decode_light_client_proof
from protocol.limits import BODY_BYTES_MAX, HISTORY_SEGMENTS, KIB, LIGHT_CLIENT_PROOF_BYTES_MAX, NANO_PER_NOCK
from protocol.rejection import Reason
from protocol.roster import Roster
from protocol.transactions import MetaVersion, SemVer, SignedTransaction, Transfer, check_transaction, sign_transaction
from simnet.finality.genesis import RULE as RULE_OF_WORLD
from simnet.finality.network import Network
from simnet.finality.options import Options
from simnet.finality.watch import Watch
from simnet.finality.world import World
from tests.consensus import light_chain

CHAIN: Final = ChainId(b"test", 0)
RULE: Final = LedgerRule()
NOBODY: Final = Roster(Epoch(0), (), (), blob_digest(b""))
FEE_NANO: Final = 1_000_000
SENDERS, ACCOUNTS = 1_000, 100_000
QUICK_SENDERS, QUICK_ACCOUNTS = 50, 1_000
BLOCKS_PIPELINED = 8
HISTORY_SEGMENT_TICKS, QUICK_SEGMENT_TICKS = 65_536, 5_000  # the default of node/config.py
BLOCKS, QUICK_BLOCKS = 1_000, 50
FINALITY_SECONDS, QUICK_FINALITY_SECONDS = 600, 20  # of the virtual world
LINK_SECONDS: Final = (0.0, 0.05)
LOOPBACK_SECONDS, QUICK_LOOPBACK_SECONDS = 20.0, 2.0
DELAY_MS: Final = 400  # members of the virtual world think for 1 to 60 ms: it should be little beside a delay
EPOCHS, QUICK_EPOCHS = 1_000, 12
SECONDS_EACH: Final = 3.0


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Transactions, blocks, agreement and light-client proofs."""
    rows = [
        *transfer_rows(quick),
        *history_rows(quick),
        *block_rows(quick),
        *finality_rows(quick),
        *loopback_rows(quick),
        *light_client_rows(quick, members=4, epochs_a_change=10),
        *light_client_rows(quick, members=100, epochs_a_change=1),
    ]
    report("chain", rows, as_json)


# -- transfers ---------------------------------------------------------------------------------------------------------


def transfer_rows(quick: bool) -> list[Row]:
    """Decoding, verifying and applying, one after the other and at once."""
    timed = partial(
        time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 3, clock=time.thread_time
    )
    senders, accounts = (QUICK_SENDERS, QUICK_ACCOUNTS) if quick else (SENDERS, ACCOUNTS)
    keys = [KeyPair(index.to_bytes(32, "big")) for index in range(senders)]
    state = make_state(keys, accounts)
    here = make_context()
    say(f"{senders} transfers in a state of {accounts} accounts")
    data = make_transfers(keys, accounts, nonce=0)
    block = [check_transaction(each, CHAIN) for each in data]
    texts = [(key.public, b"text of 32 bytes, as hashes are.", key) for key in keys]
    signed = [(public, text, key.sign(text)) for public, text, key in texts]

    def rate(milliseconds: float, count: int = senders) -> float:
        return 1000 * count / milliseconds

    floor = rate(timed(lambda: [verify(*each) for each in signed]))
    checked = rate(timed(lambda: [check_transaction(each, CHAIN) for each in data]))
    applied = rate(timed(lambda: apply_block(state, (), block, here)[0].root()))
    whole = rate(timed(lambda: apply_bytes(state, data, here)))
    pooled = rate(timed(lambda: pool_all(state, block)))
    return [
        compare("transfers applied, signatures checked before", "1/s", applied, floor=floor),
        compare("transfers decoded and verified", "1/s", checked, floor=floor),
        compare("transfers decoded, verified and applied", "1/s", whole, floor=floor),
        *pipeline_rows(keys, state, here, accounts, signed),
        compare("transfers into the pool and out of it", "1/s", pooled, floor=floor),
    ]


# -- history -----------------------------------------------------------------------------------------------------------


def history_rows(quick: bool) -> list[Row]:
    """The whole history of an epoch, by wall time: beside the same segments one after the other in this process."""
    ticks = QUICK_SEGMENT_TICKS if quick else HISTORY_SEGMENT_TICKS
    start, cores = blob_digest(b"benchmark"), usable_cores()
    ends = walk_segments(start, ticks, HISTORY_SEGMENTS)
    runs = share_out(start, ends, cores)
    say(f"a history of {HISTORY_SEGMENTS * ticks} ticks, {cores} cores")

    def rate(work: Callable[[], object]) -> float:
        milliseconds = time_calls(work, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 5)
        return 1000 * HISTORY_SEGMENTS * ticks / milliseconds

    def in_threads() -> bool:
        return all(pool.map(lambda run: are_right(run[0], run[1], ticks), runs))

    alone = rate(lambda: are_right(start, ends, ticks))
    beside = partial(compare, unit="ticks/s", peer=alone, peer_name="in this process", more_is_better=True)
    with ThreadPoolExecutor(cores) as pool:
        threads = rate(in_threads)
    single, several = (
        rate(lambda count=count: trio.run(HistoryWork(count).verify, start, ends, ticks)) for count in (1, cores)
    )
    return [
        beside("history walked in a process", ours=rate(lambda: trio.run(HistoryWork().walk, start, ticks))),
        beside("history verified in a thread for each core", ours=threads),
        beside("history verified in one process", ours=single),
        beside(f"history verified in a process for each of {cores} cores", ours=several),
    ]


def pipeline_rows(
    keys: list[KeyPair], state: State, here: BlockContext, accounts: int, signed: list[tuple[bytes, bytes, bytes]]
) -> list[Row]:
    """Two cores: by wall time, which needs two idle ones, and by the processor time of the busier side. The floor is what
    two threads or processes verify together."""
    blocks = [make_transfers(keys, accounts, nonce) for nonce in range(BLOCKS_PIPELINED)]
    count = len(blocks) * len(keys)
    rows = []
    say("two cores")
    pools: dict[str, Callable[[], Executor]] = {
        "a second thread": lambda: ThreadPoolExecutor(1),
        "a second process": lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
    }
    for name, make in pools.items():
        with make() as pool:
            pool.submit(verify_all, signed).result()  # it has started
            together = 2 * len(signed) / _seconds(lambda pool=pool: verify_beside(pool, signed))
            pipelined = count / _seconds(lambda pool=pool: apply_pipelined(pool, state, blocks, here))
            busier = count / max(apply_pipelined(pool, state, blocks, here))
        rows += [
            compare(f"signatures verified here and in {name}, wall", "1/s", together),
            compare(f"transfers verified in {name} and applied here, wall", "1/s", pipelined, floor=together),
            compare(f"transfers verified in {name} and applied here, the busier", "1/s", busier, floor=together),
        ]
    return rows


def _seconds(work: Callable[[], object]) -> float:
    return time_calls(work, seconds=0.0, calls_min=3) / 1000


def verify_all(signed: Sequence[tuple[bytes, bytes, bytes]]) -> bool:
    return all(verify(*each) for each in signed)


def verify_beside(pool: Executor, signed: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    """The same number here and there."""
    there = pool.submit(verify_all, signed)
    verify_all(signed)
    there.result()


def check_signatures(data: Sequence[bytes]) -> float:
    """What the other core does for a block; returns its seconds of processor time."""
    started = time.thread_time()
    for each in data:
        check_transaction(each, CHAIN)
    return time.thread_time() - started


def apply_pipelined(
    pool: Executor, state: State, blocks: Sequence[Sequence[bytes]], here: BlockContext
) -> tuple[float, float]:
    """Each block once its signatures are known to be right; the next one's are verified meanwhile.

    Returns the seconds of processor time here and there.
    """
    started, there = time.thread_time(), 0.0
    verified = pool.submit(check_signatures, blocks[0])
    for index, data in enumerate(blocks):
        there += verified.result()
        if index + 1 < len(blocks):
            verified = pool.submit(check_signatures, blocks[index + 1])
        state, _ = apply_block(state, (), [check_transaction(each, CHAIN, _known) for each in data], here)
        state.root()
    return time.thread_time() - started, there


def _known(public: bytes, text: bytes, signature: bytes) -> bool:
    return True


def make_transfers(keys: list[KeyPair], accounts: int, nonce: int) -> list[bytes]:
    """One of each sender."""
    recipients = accounts - len(keys)
    return [
        encode(sign_transaction(key, CHAIN, nonce, FEE_NANO, Transfer(_account(7 * index % recipients), NANO_PER_NOCK)))
        for index, key in enumerate(keys)
    ]


def _account(index: int) -> AccountId:
    return AccountId(blob_digest(index.to_bytes(4, "big")))


def make_state(keys: list[KeyPair], accounts: int) -> State:
    """A state of so many accounts; the holders of ``keys`` are rich."""
    first = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b""), 1)
    rich = [(AccountId(key.public), 1_000 * NANO_PER_NOCK) for key in keys]
    others = [(_account(index), 1) for index in range(accounts - len(keys))]
    rosters = (NOBODY, replace(NOBODY, epoch=Epoch(1)))
    state = genesis_state([*rich, *others], (), (), first, created_ms=0, rosters=rosters)
    state.root()
    return state


def make_context() -> BlockContext:
    """The first block; nobody votes and nothing is learned here."""
    heads = HeadRules(NOBODY, 1)
    proposer = AccountId(blob_digest(b"proposer"))
    return BlockContext(CHAIN, Epoch(0), Height(1), 1, proposer, PeerId(proposer), RULE, heads, epoch_heights=1_024)


def apply_bytes(state: State, data: list[bytes], here: BlockContext) -> bytes:
    """From what travelled to the new state root."""
    return apply_block(state, (), [check_transaction(each, CHAIN) for each in data], here)[0].root()


def pool_all(state: State, block: list[SignedTransaction]) -> list[SignedTransaction]:
    """Every transaction into an empty pool, and a body out of it."""
    pool = Mempool(CHAIN, RULE)
    for transaction in block:
        pool.add(transaction, state)
    return pool.take(BODY_BYTES_MAX, state)


# -- blocks ------------------------------------------------------------------------------------------------------------


def block_rows(quick: bool) -> list[Row]:
    """Flat in the length of the chain: the second row is of four times as many blocks, for a thousand of them."""
    count = QUICK_BLOCKS if quick else BLOCKS
    say(f"chains of {count} and {4 * count} blocks")
    roster, blocks = make_blocks(4 * count)
    one_epoch = replace(RULE_OF_WORLD, epoch_heights=4 * count)
    rows = []
    for length in (count, 4 * count):
        run = [*blocks[: length - 1], certified(blocks[length - 1], roster)]
        timed = partial(time_calls, seconds=0.0 if quick else SECONDS_EACH, clock=time.thread_time)
        thousands = length / 1000
        floor = timed(lambda run=run: [(block.header.digest(), body_root(block.body)) for block in run])
        ours = timed(lambda run=run: check_chain(run, roster, light_chain.CHAIN, one_epoch, _known))
        name = f"1,000 of {length} blocks verified, but for signatures"
        rows.append(compare(name, "ms", ours / thousands, floor=floor / thousands))
    return rows


def make_blocks(count: int) -> tuple[Roster, list[FinalizedBlock]]:
    """A chain of empty blocks in one long epoch."""
    chain = light_chain.LightChain([{0: 1, 1: 1, 2: 1, 3: 1}])
    model = chain.header(1)
    blocks: list[FinalizedBlock] = []
    parent: Digest = NO_BLOCK
    for height in range(1, count + 1):
        header = replace(model, height=height, view=height, parent=parent, parent_view=height - 1)
        header = replace(header, time_ms=1_000 * height, body_root=body_root(EMPTY_BODY), body_bytes=len(EMPTY_BODY))
        blocks.append(FinalizedBlock(header, EMPTY_BODY, None))
        parent = header.digest()
    return chain.roster(0), blocks


def certified(block: FinalizedBlock, roster: Roster) -> FinalizedBlock:
    """The same block with its finalization."""
    chain = light_chain.LightChain([{0: 1, 1: 1, 2: 1, 3: 1}])
    return replace(block, certificate=chain.certify(block.header, roster).certificate)


# -- finality ----------------------------------------------------------------------------------------------------------


class ConstantNetwork(Network):
    """Every message takes the same time."""

    def send(self, source: Any, to: Any, message: Any) -> None:
        self._world.later(DELAY_MS, self._world.deliver, source, to, message)


class Stopwatch(Watch):
    """When a block was proposed, notarized and finalized; whoever watched before watches on."""

    def __init__(self, world: World, before: Watch) -> None:
        self._world, self._before = world, before
        self._proposed_ms: dict[Digest, int] = {}
        self.notarized_ms: list[int] = []  # since the proposal, once for each member and block
        self.finalized_ms: list[int] = []

    def heard(self, member: MemberIndex, message: object) -> None:
        self._before.heard(member, message)

    def sent(self, member: MemberIndex, message: object) -> None:
        if isinstance(message, Proposal):
            self._proposed_ms.setdefault(message.header.digest(), self._world.now_ms)
        self._before.sent(member, message)

    def stored(self, member: MemberIndex, certificate: Certificate) -> None:
        proposed_ms = self._proposed_ms.get(certificate.block)
        if proposed_ms is not None and certificate.kind is VoteKind.NOTARIZE:
            self.notarized_ms.append(self._world.now_ms - proposed_ms)
        self._before.stored(member, certificate)

    def finalized(self, member: MemberIndex, block: FinalizedBlock) -> None:
        proposed_ms = self._proposed_ms.get(block.header.digest())
        if proposed_ms is not None:
            self.finalized_ms.append(self._world.now_ms - proposed_ms)
        self._before.finalized(member, block)

    def accused(self, member: MemberIndex, evidence: Evidence) -> None:
        self._before.accused(member, evidence)

    def blamed(self, member: MemberIndex, whom: MemberIndex, reason: Reason) -> None:
        self._before.blamed(member, whom, reason)

    def halted(self, member: MemberIndex, sentence: str) -> None:
        self._before.halted(member, sentence)


def finality_rows(quick: bool) -> list[Row]:
    """A calm world, and how many of its events a core handles a second."""
    seconds = QUICK_FINALITY_SECONDS if quick else FINALITY_SECONDS
    rows = []
    for count in (4, 7):
        say(f"finality of {count} members, {seconds} s of their time")
        world = World(0, count, Options(), chaos_ms=1_000 * seconds)
        world.network = ConstantNetwork(world)
        watch = Stopwatch(world, world.checkers)
        for member in world.members:
            member.watch = watch
        started = time.thread_time()
        world.run()
        taken = time.thread_time() - started
        rows += [
            compare(f"notarized, {count} members", "delays", median(watch.notarized_ms) / DELAY_MS, floor=2.0),
            compare(f"final, {count} members", "delays", median(watch.finalized_ms) / DELAY_MS, floor=3.0),
            compare(f"events of the machine, {count} members", "1/s", world.events / taken),
        ]
    return rows


def loopback_rows(quick: bool) -> list[Row]:
    """Four members on real sockets of this machine: as they are, and with links as between houses."""
    rows = []
    for link_seconds in LINK_SECONDS:
        seconds = QUICK_LOOPBACK_SECONDS if quick else LOOPBACK_SECONDS
        times = trio.run(finalize_over_loopback, 4, seconds, link_seconds, say)
        delay, final = median(times.delays), median(times.finalized)
        link = f"{1000 * link_seconds:.0f} ms a link" if link_seconds else "no delay of our own"
        rows += [
            Row(f"loopback, {link}: a message", "ms", 1000 * delay),
            compare(f"loopback, {link}: final", "delays", final / delay, floor=3.0),
        ]
    return rows


# -- light client ------------------------------------------------------------------------------------------------------


def light_client_rows(quick: bool, *, members: int, epochs_a_change: int) -> list[Row]:
    """One member is replaced every so many epochs; who signs is drawn."""
    epochs = QUICK_EPOCHS if quick else EPOCHS
    if quick:
        members = min(members, 10)
    say(f"{epochs} epochs of {members} members")
    keys = [KeyPair((10**6 + index).to_bytes(32, "big")) for index in range(members + epochs // epochs_a_change + 1)]
    sets = [
        dict.fromkeys(range(change, change + members), 1)
        for change in (max(0, epoch - 1) // epochs_a_change for epoch in range(epochs))
    ]
    chain = light_chain.LightChain(sets, keys)
    text = blob_digest(b"a vote")
    signed = (keys[0].public, text, keys[0].sign(text))
    signature_ms = time_calls(lambda: verify(*signed), seconds=0.1, clock=time.thread_time)
    random = Random(0)
    boundaries = [chain.block((epoch + 1) * light_chain.EPOCH_HEIGHTS, random) for epoch in range(epochs)]
    proofs: dict[str, Callable[[], list[LightClientProof]]] = {
        "every epoch": lambda: show_every_epoch(boundaries),
        "skipping": lambda: prove_in_parts(chain.trust, boundaries),
    }
    rows = []
    for name, make in proofs.items():
        made_ms = time_calls(make, seconds=0.0, calls_min=1, clock=time.thread_time)
        parts = make()
        data = [encode(proof) for proof in parts]
        signatures = sum(len(block.certificate.signatures) for proof in parts for block in proof.blocks)
        taken = time_calls(
            lambda data=data: check_parts(chain.trust, data), seconds=0.0, calls_min=1, clock=time.thread_time
        )
        what = f"light client, {epochs} epochs of {members} members, {name}"
        steps = sum(len(proof.blocks) for proof in parts)
        rows += [
            compare(f"{what}: verified", "ms", taken, floor=signatures * signature_ms),
            compare(f"{what}: proof of {steps} steps in {len(parts)}", "kB", sum(map(len, data)) / 1000),
        ]
        if name == "skipping":
            rows.append(compare(f"{what}: proof made", "ms", made_ms))
    return rows


def show_every_epoch(boundaries: Sequence[LightBlock]) -> list[LightClientProof]:
    """What a client without skipping is shown, in parts that a proof may have."""
    parts: list[list[LightBlock]] = [[]]
    size = 0
    for block in boundaries:
        step = replace(block, roster=None) if block.header.epoch == 0 else block
        size += len(encode(step))
        if (
            size > LIGHT_CLIENT_PROOF_BYTES_MAX - 4 * KIB or block.header.epoch == 1
        ):  # only a last step stays in its epoch
            parts.append([])
            size = len(encode(step))
        parts[-1].append(step)
    return [LightClientProof(tuple(part), None) for part in parts]


def prove_in_parts(trust: Trust, boundaries: Sequence[LightBlock]) -> list[LightClientProof]:
    """As the prover answers, until the newest is reached."""
    parts = []
    while trust.height < boundaries[-1].header.height:
        proof = build_light_client_proof(trust, boundaries[-1], boundaries.__getitem__)
        last = proof.blocks[-1]
        roster = last.roster if last.roster is not None else trust.roster
        trust = Trust(roster, last.header.next_roster, last.header.height, last.header.time_ms)
        parts.append(proof)
    return parts


def check_parts(trust: Trust, parts: Sequence[bytes]) -> None:
    """From bytes to the tip."""
    for data in parts:
        proof = decode_light_client_proof(data)
        trust = check_light_client_proof(proof, trust, light_chain.RULE, proof.blocks[-1].header.time_ms).trust


if __name__ == "__main__":
    main()
