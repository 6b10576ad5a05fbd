"""What the node may ask of a worker process, and what comes back.

    node                                            worker (one process per device)
      | -- Call(1, Hello(...)) ------------------->  |   choose the device, build nothing yet
      | <----------------- Answer(1, Ready(...)) --  |
      | -- Call(2, Learn(...)) ------------------->  |
      | <-------------- Answer(2, Progress(...)) --  |   after every local step
      | -- Call(3, DecodeStep(...)) -------------->  |   more urgent: served between two steps of 2
      | <--------------- Answer(3, Decoded(...)) --  |
      | -- Call(2, Cancel()) --------------------->  |   or: the final answer of 2, LearnDone
      | <------------- Answer(2, JobFailed(...)) --  |

Every call ends in exactly one final answer: `*Done`, `Ready` or `JobFailed`. Frames on the pipes are a little-endian
u32 length and as many bytes of msgpack. Weights and text never travel here: jobs name immutable files that the worker
maps; what a worker makes (compressed deltas, optimiser state) comes back as bytes when small and as a path when not.

These are messages between two processes of one machine, so they may hold floats; none is ever signed.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from protocol.rejection import Reason, Rejected

FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A LearnDone with the inline payloads of a thousand tiles; above that a worker is broken, or should write files. (A guess.)"""

LENGTH: Final = struct.Struct("<I")
NO_TOKEN: Final = -1  # in place of the one that ends an answer, which is no part of it


class Job(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that a node asks."""


class Reply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that a worker says."""


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what jobs and replies are made of."""


class TileFile(Part, frozen=True):
    """One version of a tile as an immutable file; the worker maps it. `root`: what its pages must hash to."""

    tile: str
    version: int
    root: bytes
    path: str


class ExpertPart(Part, frozen=True):
    """Rows of one expert of a layer: what is to go through it, or what came of that. Form as in ComputeExpert."""

    expert: int
    rows: bytes


class DecodedToken(Part, frozen=True):
    """The next token of an answer, and whether the answer ends with it; NO_TOKEN where a stop token ended it.

    margin: of a token that was given, `compute.decoding.Decoded`.
    """

    name: str
    token: int
    ends: bool
    margin: float = 0.0


class TileDelta(Part, frozen=True):
    """The compressed delta of one tile: inline in `payload`, or in the file `path` when that is not empty."""

    tile: str
    base: int
    payload: bytes
    path: str = ""


class Dataset(Part, frozen=True):
    """A data set on disk: its root, and the files of all its shards in order."""

    root: bytes
    shard_paths: tuple[str, ...]


class DeviceReport(Part, frozen=True):
    """What a device can do, measured by a short benchmark; integers, so that it can go into an advert unchanged.

    device: "cpu" or "cuda:N". tier: DESIGN.md 7.2, 0 to 9.
    """

    device: str
    name: str
    threads: int
    float32_gigaflops: int
    float16_gigaflops: int
    link_megabytes_per_second: int  # host to device; 0 on a CPU
    memory_bytes: int
    tier: int
    torch_version: str


class Diverged(Exception):
    """The loss is no finite number any more: the weights or the learning rate are unusable. Answered as "diverged"."""


# -- jobs ---------------------------------------------------------------------------------------------------------------


class Hello(Job, frozen=True, tag="hello"):
    """First call of every worker: choose the device, say what it can do. `genesis` is the canonical document, b"" for none."""

    device: str
    threads: int
    genesis: bytes = b""


class Learn(Job, frozen=True, tag="learn"):
    """One learner's part of a round, from the named tile versions.

    held: for each layer the experts to train; empty means all. state_path: what the last LearnDone named (optimiser
    moments and residuals), "" for none. output_folder: where the new state is written. lost: deltas that were sent but are
    in no decided version; they are added back to the residual. withheld: tiles of which no delta is made; their change
    goes to the residual.
    """

    round: int
    learner: bytes
    tiles: tuple[TileFile, ...]
    dataset: Dataset
    held: tuple[tuple[int, ...], ...]
    state_path: str
    output_folder: str
    lost: tuple[TileDelta, ...] = ()
    withheld: tuple[str, ...] = ()


class Evaluate(Job, frozen=True, tag="evaluate"):
    """Nats per byte of the named tile versions on the data set's fixed validation windows."""

    tiles: tuple[TileFile, ...]
    dataset: Dataset
    validation_sequences: int


class ComputeExpert(Job, frozen=True, tag="compute"):
    """Rows through slice `index` of `count` of an expert, whose group's tiles at the named versions are these.

    `rows`: float32, little-endian, row after row, each as wide as the model.
    """

    tiles: tuple[TileFile, ...]
    expert: str
    index: int
    count: int
    rows: bytes


class BeginAnswer(Job, frozen=True, tag="begin"):
    """Begin to continue a prompt of token ids; answered by Noted.

    decoder: a number that the node chose, never used before; its first answer brings it, an EndAnswer without a name ends it.
    tiles: the model's, or the trunk's alone, whose experts are elsewhere. Sampling as in `compute.sampling.Sampling`. given:
    nothing, or all tokens of the answer, `max_tokens` of them: what is asked is what would have been chosen in their place.
    """

    decoder: int
    tiles: tuple[TileFile, ...]
    name: str
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_k: int
    seed: int
    stop_tokens: tuple[int, ...]
    top_p: float = 1.0
    given: tuple[int, ...] = ()


class DecodeStep(Job, frozen=True, tag="decode"):
    """Go on with a decoder's step, or begin one; answered by Decoded, before it by RowsWanted for each layer of a trunk alone.

    outputs: what experts made of the rows that the last answer wanted; nothing at the beginning of a step.
    """

    decoder: int
    outputs: tuple[ExpertPart, ...]


class EndAnswer(Job, frozen=True, tag="end"):
    """Forget an answer, whatever its state, or without a name the decoder with all of its answers; answered by Noted."""

    decoder: int
    name: str


class Cancel(Job, frozen=True, tag="cancel"):
    """End the call that this one shares its number with; it answers JobFailed("cancelled") unless it was done.

    At a checkpoint of whatever runs, also when the call itself has not begun.
    """


class Shutdown(Job, frozen=True, tag="shutdown"):
    """Exit at once. Closing the worker's standard input does the same."""


AnyJob = Hello | Learn | Evaluate | ComputeExpert | BeginAnswer | DecodeStep | EndAnswer | Cancel | Shutdown

URGENCY: Final[dict[type[Job], int]] = {
    Hello: 0,
    ComputeExpert: 1,
    BeginAnswer: 1,
    DecodeStep: 1,
    EndAnswer: 1,
    Evaluate: 2,
    Learn: 3,
}
"""Smaller goes first, between two steps of what runs: people who wait for an answer come before training (DESIGN.md 7.7)."""


# -- replies ------------------------------------------------------------------------------------------------------------


class Ready(Reply, frozen=True, tag="ready"):
    """Final answer to Hello."""

    device: DeviceReport
    process: int


class Progress(Reply, frozen=True, tag="progress"):
    """A step of Learn or a batch of Evaluate is done; loss in nats per byte, of that step."""

    step: int
    steps: int
    loss: float


class LearnDone(Reply, frozen=True, tag="learned"):
    """Final answer to Learn. `state_path` is a new file: the moments and residuals that go with exactly these deltas."""

    round: int
    deltas: tuple[TileDelta, ...]
    state_path: str
    tokens: int
    loss_mean: float
    milliseconds: int


class EvaluateDone(Reply, frozen=True, tag="evaluated"):
    """Final answer to Evaluate: millionths of a nat per byte, and over how many bytes."""

    loss_micro: int
    tokens: int


class ExpertComputed(Reply, frozen=True, tag="computed"):
    """Final answer to ComputeExpert: as many rows of the same form, which the slices of an expert give in sum."""

    rows: bytes


class Noted(Reply, frozen=True, tag="noted"):
    """Final answer to BeginAnswer and EndAnswer."""


class RowsWanted(Reply, frozen=True, tag="wanted"):
    """Final answer to DecodeStep: what goes through which experts of a layer before the step can go on."""

    layer: int
    parts: tuple[ExpertPart, ...]


class Decoded(Reply, frozen=True, tag="decoded"):
    """Final answer to DecodeStep: a step is done, with a token of every answer that had its turn."""

    tokens: tuple[DecodedToken, ...]


class JobFailed(Reply, frozen=True, tag="failed"):
    """Final answer to a call that failed. `code` is the code of a Reason, "cancelled", "diverged" or "error" (our fault)."""

    code: str
    detail: str


AnyReply = Ready | Progress | LearnDone | EvaluateDone | ExpertComputed | Noted | RowsWanted | Decoded | JobFailed

FINAL_REPLIES: Final = (
    Ready,
    LearnDone,
    EvaluateDone,
    ExpertComputed,
    Noted,
    RowsWanted,
    Decoded,
    JobFailed,
)


# -- work ---------------------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A place where a job may be interrupted: the share of its work that is done, and a reply that is ready."""

    share: float
    reply: AnyReply | None = None


Result = TypeVar("Result", bound=AnyReply)
Work = Generator[Checkpoint, None, Result]
"""What a worker does for a job: it stops at every checkpoint, and returns the final reply. Closing it gives the job up.

Whoever drives it decides what happens there: a process lets more urgent calls through (`compute.io.worker_loop`), a
simulated one lets virtual time pass besides.
"""


# -- frames -------------------------------------------------------------------------------------------------------------

CallNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Call(Part, frozen=True):
    """A job under the number that its answers will carry."""

    number: CallNumber
    job: AnyJob


class Answer(Part, frozen=True):
    """A reply to call `number`."""

    number: CallNumber
    reply: AnyReply


_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(Call)
_answer_decoder = msgspec.msgpack.Decoder(Answer)
NOT_A_MESSAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)  # as protocol/codec.py knows


def frame(message: Call | Answer) -> bytes:
    """Length and bytes of a message. Raises Rejected(TOO_LARGE)."""
    body = _encoder.encode(message)
    return LENGTH.pack(check_frame_length(len(body))) + body


def check_frame_length(length: int) -> int:
    """The length, if a frame may have it. Raises Rejected(TOO_LARGE)."""
    if length > FRAME_BYTES_MAX:
        raise Rejected(Reason.TOO_LARGE, f"a worker frame of {length} bytes, at most {FRAME_BYTES_MAX}")
    return length


def take_frames(buffer: bytearray) -> Iterator[bytearray]:
    """The bodies of the whole frames at the front of `buffer`, which are removed from it. Raises Rejected(TOO_LARGE)."""
    while len(buffer) >= LENGTH.size:
        end = LENGTH.size + check_frame_length(LENGTH.unpack_from(buffer)[0])
        if len(buffer) < end:
            return
        body = buffer[LENGTH.size : end]
        del buffer[:end]
        yield body


def parse_call(body: bytes | bytearray) -> Call:
    """Raises Rejected(MALFORMED)."""
    try:
        return _call_decoder.decode(body)
    except NOT_A_MESSAGE as error:
        raise Rejected(Reason.MALFORMED, f"call: {error}") from None


def parse_answer(body: bytes | bytearray) -> Answer:
    """Raises Rejected(MALFORMED)."""
    try:
        return _answer_decoder.decode(body)
    except NOT_A_MESSAGE as error:
        raise Rejected(Reason.MALFORMED, f"answer: {error}") from None
