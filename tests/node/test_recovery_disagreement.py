"""A node that computes another state than the network: it keeps what it did, stops with a sentence, begins anew when told."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from consensus.execution import StateDisagreement
from node.errors import EXIT_DISAGREES, explain
from node.recovery_disagreement import (
    StateRows,
    check_not_halted,
    disagreements,
    dump_name,
    find_halt,
    finish_forgetting,
    forget_chain,
    record_disagreement,
)
from protocol.codec import decode, encode
from protocol.finality import Body, FinalizedBlock, body_root
from protocol.ids import Height
from protocol.limits import MIB
from protocol.rejection import Rejected
from simnet.virtual.disk import Pool, VirtualDisk
from storage.kv import MemoryKeyValue
from storage.tensor_block import BytesLike
from tests.consensus.ledger_samples import ACCOUNT_IDS
from tests.consensus.samples import make_block
from tests.node.ground_samples import GroundedChain, make_ground


def disagree(chain: GroundedChain) -> StateDisagreement:
    """What the engine says when the next block is final with a state root that is nobody's."""
    height = Height(chain.execution.height + 1)
    body = encode(Body(()))
    header = replace(
        make_block([], height=height)[1],
        parent=chain.execution.anchor,
        state_root=bytes(32),
        body_root=body_root(body),
        body_bytes=len(body),
    )
    with pytest.raises(StateDisagreement) as raised:
        chain.execution.finalize(FinalizedBlock(header, body, None))
    return raised.value


def test_what_is_needed_to_find_out_why_is_kept() -> None:
    """The block as it travelled, roots before and after, and every entry that the block changed here."""
    chain = GroundedChain(make_ground())
    chain.add(payments=1)
    files = chain.ground.disk.files
    found = disagree(chain)
    assert found.after is not None
    record_disagreement(chain.ground, found)
    name = dump_name(2)
    assert files.names("disagreements") == [
        f"{name}/{file}" for file in ("body.bin", "certificate.bin", "facts.json", "header.bin", "rows.bin")
    ]
    facts = json.loads(bytes(files.read(f"{name}/facts.json")))
    assert facts["state_root_of_the_network"] == "00" * 32
    assert facts["state_before"]["root"] == chain.state.root().hex()
    assert facts["state_after"]["root"] == found.after.root().hex()
    assert {"python", "nocknode", "msgspec"} <= set(facts["versions"])
    assert bytes(files.read(f"{name}/header.bin")) == encode(found.block.header)
    rows = decode(StateRows, bytes(files.read(f"{name}/rows.bin")), limit_bytes=MIB).rows
    assert all(row.before != row.after for row in rows)


def test_the_rows_before_and_after_are_those_of_the_states() -> None:
    """An entry that is new has nothing before it; applying the rows to the one state gives the other."""
    chain = GroundedChain(make_ground())
    before = chain.state
    chain.add(payments=2)
    height = chain.execution.height
    found = disagree(chain)
    record_disagreement(chain.ground, StateDisagreement(found.block, before, chain.state, found.refusal))
    data = bytes(chain.ground.disk.files.read(f"{dump_name(height + 1)}/rows.bin"))
    rows = {(row.chain, row.key): row for row in decode(StateRows, data, limit_bytes=MIB).rows}
    account = next(row for (_, key), row in rows.items() if key.endswith(ACCOUNT_IDS[1]))
    assert account.before == encode(before.account(ACCOUNT_IDS[1]))
    assert account.after == encode(chain.state.account(ACCOUNT_IDS[1]))


def test_a_node_that_disagreed_does_not_begin_again_until_it_forgets_the_chain() -> None:
    """The refusal names the block and the remedy; afterwards there is no block and no state, and nothing of what was kept."""
    chain = GroundedChain(make_ground())
    chain.add(payments=1)
    check_not_halted(chain.ground)
    record_disagreement(chain.ground, disagree(chain))
    with pytest.raises(Rejected, match=r"final block 2 .*nocknode recovery resync"):
        check_not_halted(chain.ground)
    forget_chain(chain.ground)
    check_not_halted(chain.ground)
    assert chain.ground.ledger.tip() is None
    assert find_halt(chain.ground.index) is None
    assert chain.ground.load_state().root() == chain.ground.genesis_state().root()
    assert chain.ground.disk.files.names("disagreements")


def test_forgetting_goes_on_after_a_crash_at_any_write() -> None:
    """However far it came, the next start ends it: there is never half a chain to go on with."""

    class Cut(MemoryKeyValue):
        writes_left = -1

        def write(self, *arguments: object, **options: bool) -> None:
            if self.writes_left == 0:
                raise OSError("the power failed")
            self.writes_left -= 1
            super().write(*arguments, **options)  # type: ignore[arg-type]  # as they came

    for cut_after in range(1, 12):
        index = Cut()
        chain = GroundedChain(make_ground(index))
        chain.add(payments=1)
        index.writes_left = cut_after
        try:
            forget_chain(chain.ground)
        except OSError:
            index.crash()
        else:
            break
        index.writes_left = -1
        again = make_ground(index)
        finish_forgetting(again)
        assert again.ledger.tip() is None
        assert again.load_state().root() == again.genesis_state().root()
    else:
        pytest.fail("it never ends")


def test_a_disk_that_is_full_hides_nothing() -> None:
    """What cannot be kept is logged; the node ends with its sentence all the same."""

    class Full(VirtualDisk):
        def __init__(self) -> None:
            super().__init__("full", Pool())

            def write(name: str, pieces: Iterable[BytesLike], *, durable: bool = True) -> int:
                raise OSError(errno.ENOSPC, "no space left")

            self.files.write = write  # type: ignore[method-assign]  # this disk's alone

    chain = GroundedChain(make_ground())
    chain.ground.disk = Full()
    record_disagreement(chain.ground, disagree(chain))
    assert find_halt(chain.ground.index) is not None


def test_the_user_is_told_in_one_sentence_with_an_exit_code_of_its_own() -> None:
    """Whatever else ended with it."""
    found = disagree(GroundedChain(make_ground()))
    group = BaseExceptionGroup("", [OSError("a socket"), BaseExceptionGroup("", [found])])
    assert list(disagreements(group)) == [found]
    failure = explain(group)
    assert failure.exit_code == EXIT_DISAGREES
    assert "block 1 is final" in failure.sentence
    assert "nocknode recovery resync" in failure.sentence
