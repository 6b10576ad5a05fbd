"""Whoever adds a decoder adds a row to `tests/fuzz/decoders.py`, or says here why its bytes are nobody else's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.architecture.source import PACKAGES, Broken, Source, broken, check, dotted, sources
from tests.fuzz.decoders import DECODERS

REMEDY = "Add a row to tests/fuzz/decoders.py that goes through it, or a reason to tests/architecture/test_decoders.py"

# A decoder by its name and what it takes.
DECODES = re.compile(r"^(check|decode|find|open|parse|read|split|unpack|usable)(_|$)|^(feed|gossip|validator)$")
BYTES = re.compile(r"^(bytes|bytearray|memoryview|BytesLike)( \| (bytes|bytearray|memoryview|None))*$")
TEXTS = {"text", "texts", "topic"}

# Functions of such a name and shape, whose bytes are ours or are checked by somebody else.
NOT_A_DECODER = {
    "simnet.cores.shared.read_delta": "decodes a SignedDelta, which has a row",
    "compute.data.split_spans": "a digest of ours",
    "consensus.execution.check": "decodes a Body, which has a row",
    "consensus.light_client.check_entry": "compares a value with a decoded proof",
    "consensus.mempool.find": "looks a digest up",
    "consensus.state.find": "a key of ours",
    "consensus.state_tree.find": "a key of ours",
    "node.api_keys.find": "looks the digest of a text of one form up; tests/node/test_api_keys.py has others",
    "node.fork_rows.check_signed": "decodes a SignedRecovery, which has a row",
    "node.join.check_hello": "compares with the network id",
    "node.node.check_hello": "compares with the network id",
    "simnet.virtual.machine.check_hello": "compares with the network id",
    "p2p.io.libp2p_host.open_libp2p_host": "a seed of ours",
    "p2p.io.memory_host.open_memory_host": "a seed of ours",
    "simnet.facts.read": "answers of nodes that simnet itself started",
    "simnet.finality.ledger.check": "decodes a Body, which has a row",
    "storage.blobs.check_blob": "compares a digest",
    "storage.io.blob_store.find": "a name of ours",
    "storage.cells.unpack_place": "a row of our own database",
    "storage.keys.split_cell_key": "a key of our own database",
    "storage.keys.split_tile_key": "a key of our own database",
    "storage.keys.unpack_u64": "a number of our own database",
}
# Calls that read bytes without protocol/codec.py, by file: which rows go through them, or why none does.
RAW_CALLS = re.compile(
    r"^(tomllib\.loads|json\.loads|msgspec\.(json|msgpack)\.(decode|Decoder)|base64\.b32decode|(np|numpy)\.frombuffer)$"
    r"|\.(unpack|unpack_from)$"
)
RAW = {
    "compute/data.py": "shards of a data set whose digests were checked; any byte is a token",
    "compute/delta/bits.py": "delta",
    "compute/delta/codec.py": "delta",
    "compute/io/worker_loop.py": "worker call",
    "compute/model/expert.py": "rows of a call; any bits are numbers",
    "compute/jobs.py": "worker call",
    "compute/rows_decoder.py": "rows of a call; any bits are numbers",
    "compute/model/genesis.py": "numbers from a hash",
    "compute/spot_checks.py": "rows that are computed again",
    "node/api/bodies.py": "generate request",
    "node/commands/badge.py": "badge; a file of the user, by msgspec's own decoder",
    "node/api_keys.py": "a file of the node's owner, by msgspec's own decoder",
    "node/chain_proof.py": "proof file",
    "node/commands/client.py": "answers of the node of the same user, over loopback",
    "node/doctor.py": "what a child of ours printed",
    "node/keys.py": "card",
    "node/tile_work.py": "tile file",
    "node/toml_table.py": "node configuration",
    "node/verify.py": "tile file",
    "node/worker.py": "tile file",
    "p2p/framing.py": "frames",
    "protocol/codec.py": "every row of a message",
    "simnet/cores/shared.py": "weights out of a checked tile of this world's own store",
    "simnet/facts.py": "answers of nodes that simnet itself started",
    "simnet/processes.py": "what a child of ours printed",
    "simnet/wrong_experts.py": "rows that it computed itself",
    "storage/erasure/check.py": "shard, table of a coded tile; and numbers from a hash",
    "storage/erasure/self_test.py": "numbers from a hash",
    "storage/erasure/tile.py": "shard",
    "storage/journal.py": "journal",
    "storage/keys.py": "keys of our own database",
    "storage/streamed_tile.py": "streamed tile",
    "storage/tensor_block.py": "tensor block",
    "storage/tile_stream.py": "tile stream",
}

READ = [each for row in DECODERS for each in row.reads]
FUNCTIONS_READ = {f"{each.__module__}.{each.__name__}" for each in READ if not isinstance(each, type)}
MESSAGES_READ = {each.__name__ for each in READ if isinstance(each, type)} | {
    "ValidatorMessage",
    "BlobRequest",
    "StateRequest",
    "CellRequest",
}


def test_every_message_that_is_decoded_has_a_row() -> None:
    """`decode(Kind, data, limit_bytes=...)` anywhere in the packages."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and any(word.arg == "limit_bytes" for word in node.keywords):
                    kind = dotted(node.args[0])
                    # A lower-case name is a variable: protocol/messages.py looks up a row of PAYLOADS, and each has a row.
                    if kind[:1].isupper() and kind not in MESSAGES_READ:
                        yield broken(source, node.lineno, f"decodes {kind}, which nothing fuzzes", REMEDY)

    check(found())


def takes_bytes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args]
    notes = [(each.arg, ast.unparse(each.annotation) if each.annotation else "") for each in arguments]
    return any(
        BYTES.match(note) or (name in TEXTS and note in ("str", "object", "Iterable[str]")) for name, note in notes
    )


def decoders_of(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and DECODES.match(node.name) and takes_bytes(node):
            yield node


def test_every_function_that_reads_bytes_or_text_has_a_row() -> None:
    """By its name (check_, decode_, open_, parse_, read_ ...) and the type of what it takes."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            for node in decoders_of(source):
                name = f"{source.module}.{node.name}"
                if name not in FUNCTIONS_READ and name not in NOT_A_DECODER and name != "protocol.codec.decode":
                    yield broken(source, node.lineno, f"{name} reads what others wrote, and nothing fuzzes it", REMEDY)

    check(found())


def test_every_file_that_reads_raw_bytes_is_known() -> None:
    """struct, numpy, JSON, TOML and base32, outside of protocol/codec.py."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and RAW_CALLS.search(dotted(node.func)) and str(source.path) not in RAW:
                    yield broken(source, node.lineno, f"calls {dotted(node.func)}()", REMEDY)

    check(found())


def test_the_tables_of_exceptions_name_what_is_there() -> None:
    """A reason for something that is gone is a reason that somebody will borrow."""
    functions = {
        f"{source.module}.{node.name}"
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    files = {
        str(source.path)
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and RAW_CALLS.search(dotted(node.func))
    }
    assert set(NOT_A_DECODER) <= functions, sorted(set(NOT_A_DECODER) - functions)
    assert set(RAW) <= files, sorted(set(RAW) - files)
    assert len({row.name for row in DECODERS}) == len(DECODERS)
