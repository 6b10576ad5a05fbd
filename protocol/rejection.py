"""Why something was refused, and whom to blame: a closed list.

Three kinds of failure are kept apart everywhere in the node:

* ``Rejected(reason)``: a peer, an author or a user broke a rule. Expected, cheap, never logged as our error.
* ``InvariantBroken``: we broke a rule of our own. Nothing catches it; the node stops.
* ``OSError`` and friends: the world failed. The shell that touched it handles it; it is never turned into a ``Rejected``.

Each reason is one sentence and names who did it. A ``match`` over ``Blame`` ends in ``assert_never``, so that a new kind
of blame asks every consumer what it means.
"""

from __future__ import annotations

import enum


class Blame(enum.Enum):
    """Who pays for a rejection."""

    SENDER = "sender"  # the peer that handed us the bytes: it could have seen that they are wrong
    AUTHOR = "author"  # the key that signed them: an honest relay could not know
    USER = "user"  # the person at this machine: a file, an option, an API call
    NOBODY = "nobody"  # late, repeated or out of luck; happens among honest peers


class Reason(enum.Enum):
    """Every reason for which something is refused: ``(code, blame, sentence)``."""

    # Bytes and encoding
    TOO_LARGE = ("too_large", Blame.SENDER, "The message is larger than its kind allows.")
    MALFORMED = ("malformed", Blame.SENDER, "The bytes do not decode as the kind that they claim to be.")
    NOT_CANONICAL = (
        "not_canonical",
        Blame.SENDER,
        "The bytes decode, but are not the one canonical encoding of the value.",
    )
    UNKNOWN_KIND = ("unknown_kind", Blame.SENDER, "No message of this kind belongs on this topic or protocol.")

    # Envelopes and admission
    FOREIGN_NETWORK = (
        "foreign_network",
        Blame.SENDER,
        "The message or peer belongs to another network (another genesis).",
    )
    EXPIRED = ("expired", Blame.NOBODY, "The envelope had expired when it arrived.")
    EXPIRES_TOO_LATE = ("expires_too_late", Blame.AUTHOR, "The envelope claims to live longer than ten minutes.")
    REPEATED = ("repeated", Blame.NOBODY, "An envelope with this sequence number was seen before.")
    BAD_SIGNATURE = ("bad_signature", Blame.SENDER, "The signature does not match the bytes and the key.")
    OVER_BUDGET = ("over_budget", Blame.SENDER, "The peer sends faster than its topic or protocol allows.")
    BANNED = ("banned", Blame.SENDER, "The peer is banned for what it did before.")
    NOT_A_MEMBER = ("not_a_member", Blame.AUTHOR, "The author is not in the roster of this epoch.")
    CLOCK_OFF = ("clock_off", Blame.AUTHOR, "The author's clock is too far from the median of its peers.")

    # Content-addressed bytes, tiles, files
    NOT_FOUND = ("not_found", Blame.NOBODY, "The peer does not hold the bytes that were asked for.")
    WRONG_DIGEST = ("wrong_digest", Blame.SENDER, "The bytes do not have the digest under which they were asked for.")
    BAD_PROOF = ("bad_proof", Blame.SENDER, "The Merkle proof does not lead to the root.")
    BLOB_CORRUPT = ("blob_corrupt", Blame.NOBODY, "Stored bytes no longer have their digest: the disk changed them.")
    TILE_CORRUPT = (
        "tile_corrupt",
        Blame.NOBODY,
        "A tile file is cut short or has a flipped bit: a page has the wrong digest.",
    )
    BAD_BLOCK = ("bad_block", Blame.SENDER, "The tensor block's header contradicts itself or its bytes.")
    BAD_DELTA = ("bad_delta", Blame.AUTHOR, "The compressed delta breaks a rule of its format.")
    BAD_SHAPE = ("bad_shape", Blame.AUTHOR, "The tensor has another shape than its tile.")
    WRONG_ROWS = (
        "wrong_rows",
        Blame.SENDER,
        "The rows that came back are not what this expert makes of those that went.",
    )
    BAD_WEIGHTS = ("bad_weights", Blame.AUTHOR, "A weight is not finite, or larger than any weight may be.")

    # Coded blobs
    BAD_MANIFEST = ("bad_manifest", Blame.AUTHOR, "The manifest of a coded blob contradicts itself.")
    BAD_ENCODING = (
        "bad_encoding",
        Blame.AUTHOR,
        "The cells under a tile's root are not what the code makes of its data.",
    )
    NOT_RECOVERABLE = (
        "not_recoverable",
        Blame.SENDER,
        "Two thirds who say that they keep a blob of this geometry would not make it certain.",
    )
    TOO_FEW_CELLS = ("too_few_cells", Blame.NOBODY, "Fewer cells are at hand than rebuild the tile.")

    # Learning
    UNKNOWN_TILE = ("unknown_tile", Blame.AUTHOR, "The model has no tile of this name.")
    WRONG_OWNER = ("wrong_owner", Blame.AUTHOR, "The proposer is not in this tile's order for this attempt.")
    STALE_BASE = (
        "stale_base",
        Blame.NOBODY,
        "The delta's base is neither the parent nor the grandparent of the open version.",
    )
    ALREADY_COUNTED = ("already_counted", Blame.NOBODY, "The delta was counted in an earlier version of the tile.")
    SECOND_DELTA = ("second_delta", Blame.AUTHOR, "The learner signed another delta for the same tile and base.")
    SLOT_DECIDED = ("slot_decided", Blame.NOBODY, "The slot already has its head.")
    WRONG_PARENT = ("wrong_parent", Blame.AUTHOR, "The head does not continue the tile's decided version.")
    WRONG_ROOT = (
        "wrong_root",
        Blame.AUTHOR,
        "Applying the update to the parent gives another root than the head claims.",
    )
    SECOND_VALUE = (
        "second_value",
        Blame.AUTHOR,
        "The proposer signed another value for the same slot and attempt: evidence.",
    )

    # Finality
    WRONG_CHAIN = ("wrong_chain", Blame.SENDER, "The vote, certificate or header names another chain or fork.")
    OTHER_FORK = (
        "other_fork",
        Blame.NOBODY,
        "The message is of another fork of this chain, after an emergency recovery.",
    )
    WRONG_EPOCH = ("wrong_epoch", Blame.NOBODY, "The message belongs to another epoch.")
    NO_QUORUM = ("no_quorum", Blame.SENDER, "The certificate's signers do not hold more than two thirds of the weight.")
    WRONG_LEADER = ("wrong_leader", Blame.AUTHOR, "The proposer does not lead this view.")
    WRONG_ANCESTRY = ("wrong_ancestry", Blame.AUTHOR, "The proposal's parent or skip list does not hold.")
    WRONG_BODY = ("wrong_body", Blame.AUTHOR, "The body does not match its header or breaks a rule.")
    WRONG_STATE = ("wrong_state", Blame.AUTHOR, "Executing the body gives another state root than the header claims.")
    EQUIVOCATION = ("equivocation", Blame.AUTHOR, "The author signed two contradicting votes: evidence.")

    # Emergency recovery
    REVERTS_FINAL = ("reverts_final", Blame.SENDER, "The recovery would take back a block that is final.")

    # Light clients
    BAD_STEP = ("bad_step", Blame.SENDER, "A step of a light-client proof does not continue the one before it.")
    TOO_LITTLE_TRUST = (
        "too_little_trust",
        Blame.SENDER,
        "The signers hold no more than a third of the weight that is trusted.",
    )
    TRUST_EXPIRED = (
        "trust_expired",
        Blame.USER,
        "What is trusted is older than the trusting period: its keys may answer for nothing any more.",
    )

    # Transactions and the ledger
    WRONG_NONCE = ("wrong_nonce", Blame.NOBODY, "The transaction's nonce is used, or too far ahead of its account.")
    FEE_TOO_LOW = ("fee_too_low", Blame.AUTHOR, "The fee is below what a transaction of this size must pay.")
    UNFUNDED = ("unfunded", Blame.AUTHOR, "The account or the stake does not hold so much.")
    NOT_AUTHORISED = ("not_authorised", Blame.AUTHOR, "The sender may not do this: it belongs to another account.")
    UNKNOWN_VALIDATOR = ("unknown_validator", Blame.AUTHOR, "No validator of this node key can do this now.")
    ALREADY_RECORDED = ("already_recorded", Blame.NOBODY, "The state holds this already.")
    STAKE_TOO_LOW = ("stake_too_low", Blame.AUTHOR, "A validator must have more at stake, or leave.")
    LIST_FULL = ("list_full", Blame.NOBODY, "A bounded list of the state has no room for another entry.")
    BAD_WORK = ("bad_work", Blame.AUTHOR, "The record's proof of work has too few leading zero bits.")
    UNKNOWN_PARENT = ("unknown_parent", Blame.AUTHOR, "The record depends on something that is not recorded.")
    WRONG_VERSION = ("wrong_version", Blame.AUTHOR, "The version does not follow the newest by one step.")
    WRONG_SUBJECT = (
        "wrong_subject",
        Blame.AUTHOR,
        "What is said to be kept is not what the certificate names, or not what the state knows of it.",
    )
    NOT_AVAILABLE = (
        "not_available",
        Blame.AUTHOR,
        "No certificate on the chain says that these bytes, of this size, are kept.",
    )
    WRONG_LEAF = ("wrong_leaf", Blame.AUTHOR, "Another leaf is shown than the one that the chain asks for.")
    NO_EVIDENCE = ("no_evidence", Blame.AUTHOR, "The two votes do not contradict each other.")
    TOO_OLD = ("too_old", Blame.NOBODY, "What is reported is so old that it is no longer punished.")
    UNDERPRICED = (
        "underpriced",
        Blame.NOBODY,
        "The fee does not exceed that of the transaction to be replaced enough.",
    )
    REPLACED = ("replaced", Blame.NOBODY, "Another transaction of the same sender and nonce pays more.")
    OUTBID = ("outbid", Blame.NOBODY, "The pool is full of transactions that pay more.")

    # The user's mistakes
    BAD_CONFIG = ("bad_config", Blame.USER, "The configuration has a mistake.")
    BAD_ARGUMENT = ("bad_argument", Blame.USER, "An option or argument has a mistake.")
    BAD_CORPUS = ("bad_corpus", Blame.USER, "The corpus cannot be used.")
    BAD_DATA_DIRECTORY = ("bad_data_directory", Blame.USER, "The data directory cannot be used.")
    BAD_ADDRESS = ("bad_address", Blame.USER, "The network address cannot be used.")
    BAD_DEVICE = ("bad_device", Blame.USER, "The compute device cannot be used.")
    BUSY = ("busy", Blame.NOBODY, "The node cannot take this work now.")

    def __init__(self, code: str, blame: Blame, sentence: str) -> None:
        self.code = code
        self.blame = blame
        self.sentence = sentence


REASON_BY_CODE: dict[str, Reason] = {reason.code: reason for reason in Reason}


class Rejected(Exception):
    """A checked input was refused. ``reason`` says why and whom to blame; ``detail`` is for the person who reads."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.sentence} ({self.detail})" if self.detail else self.reason.sentence


class InvariantBroken(BaseException):
    """We broke one of our own rules. A ``BaseException``, so that no ``except Exception`` survives it: the node stops.

    Raised instead of asserted, because ``python -O`` removes assertions.
    """


def check_invariant(holds: bool, sentence: str) -> None:
    """Stop the node when ``holds`` is false: a correctness bug becomes a liveness bug."""
    if not holds:
        raise InvariantBroken(sentence)
