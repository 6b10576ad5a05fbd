"""Reasons and limits: closed lists that a reader can trust."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from protocol import limits
from protocol.digest import Domain
from protocol.rejection import REASON_BY_CODE, Blame, Reason, Rejected
from tests.architecture.source import PACKAGES, Broken, broken, check, dotted, sources


def test_every_reason_is_one_sentence_with_a_code_and_a_blame() -> None:
    """Codes are unique, spelled like their name, and the sentence ends in a full stop."""
    assert len({reason.value for reason in Reason}) == len(Reason.__members__), "two reasons are one: an enum alias"
    assert set(REASON_BY_CODE) == {reason.code for reason in Reason}
    assert len(REASON_BY_CODE) == len(Reason.__members__)
    for reason in Reason:
        assert reason.code == reason.name.lower()
        assert isinstance(reason.blame, Blame)
        assert re.fullmatch(r"[A-Z].*[^.]\.", reason.sentence), reason
    assert len({reason.sentence for reason in Reason}) == len(Reason.__members__)


def test_a_rejection_reads_as_a_sentence() -> None:
    """With the detail in brackets where there is one."""
    assert str(Rejected(Reason.BANNED)) == "The peer is banned for what it did before."
    assert str(Rejected(Reason.BANNED, "for an hour")) == "The peer is banned for what it did before. (for an hour)"


def test_every_reason_is_used() -> None:
    """A reason that nothing gives is a promise that nothing keeps."""
    used = {
        dotted(node).split(".")[1]
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted(node).startswith("Reason.")
    }
    where = "protocol/rejection.py"
    remedy = "Use it where it belongs, or delete it"
    check(Broken(where, 1, f"nothing rejects for {name}", remedy) for name in Reason.__members__ if name not in used)


def test_every_domain_word_is_used() -> None:
    """A word that nothing is hashed under is one that somebody will take for another meaning."""
    used = {
        dotted(node)
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted(node).startswith("Domain.")
    }
    words = [name for name in vars(Domain) if name.isupper()]
    remedy = "Delete it, and never use the word again"
    check(
        Broken("protocol/digest.py", 1, f"nothing uses {name}", remedy)
        for name in words
        if f"Domain.{name}" not in used
    )


def test_a_match_over_reason_or_blame_asks_for_every_new_case() -> None:
    """It ends in assert_never, or a new case would pass unseen."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            for node in ast.walk(source.tree):
                is_verdict = isinstance(node, ast.Match) and any(_names_blame(case.pattern) for case in node.cases)
                if is_verdict and "assert_never" not in ast.dump(node.cases[-1]):
                    yield broken(source, node.lineno, "matches a Reason or Blame without assert_never", "End it in one")

    check(found())


def _names_blame(pattern: ast.pattern) -> bool:
    return any(
        isinstance(node, ast.MatchValue) and dotted(node.value).split(".")[0] in ("Reason", "Blame")
        for node in ast.walk(pattern)
    )


def test_every_limit_is_a_positive_integer_that_something_reads() -> None:
    """A bound that nothing enforces is no bound."""
    names = {name: value for name, value in vars(limits).items() if name.isupper()}
    for name, value in names.items():
        assert isinstance(value, int), name
        assert value > 0, name
    read: set[str] = set()
    for source in sources(*PACKAGES, "tests/protocol"):  # a bound on types is enforced by a test
        nodes = list(ast.walk(source.tree))
        read.update(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        read.update(dotted(node).rpartition(".")[2] for node in nodes if isinstance(node, ast.Attribute))
    remedy = "Enforce it where it belongs, or delete it"
    check(Broken("protocol/limits.py", 1, f"nothing reads {name}", remedy) for name in names if name not in read)


def test_limits_relate() -> None:
    """The relations between bounds that hold across packages (limits.py asserts its own)."""
    assert limits.GOSSIP_MESSAGE_BYTES_MAX == 64 * 1024
    assert limits.ENVELOPE_LIFETIME_MS_MAX == 600_000
    assert limits.CLOCK_SLACK_MS < limits.ENVELOPE_LIFETIME_MS_MAX
    assert limits.SEQUENCE_WINDOW_BITS < limits.SEQUENCE_BLOCK
    assert limits.TILE_BYTES_MAX <= limits.BLOB_RANGE_BYTES_MAX <= limits.FRAME_BYTES_MAX
    assert limits.ROSTER_MEMBERS_MAX * 80 < limits.FRAME_BYTES_MAX
    assert limits.STREAMS_PER_CONNECTION_MAX < 256
