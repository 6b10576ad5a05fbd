"""The README's commands are the ones that run."""

from __future__ import annotations

import re

from tests.architecture.source import ROOT


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readmes_test_command_is_the_one_that_ci_runs() -> None:
    """The line of the README that says "the whole test suite" is the last line of `.ci/run`."""
    said = re.findall(r"^ +(\S.*?) +# .*the whole test suite$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert said == [(ROOT / ".ci" / "run").read_text().splitlines()[-1]]


def test_every_make_target_in_the_guides_exists() -> None:
    """README.md and CONTRIBUTING.md name no target that the Makefile does not have."""
    for guide in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(_code(ROOT / guide))))
        assert named <= targets(), f"{guide}: {sorted(named - targets())}"


def _code(path) -> list[str]:
    text = path.read_text()
    return [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    .*$", text, re.MULTILINE)]


def test_every_make_target_is_described() -> None:
    """`make` alone lists them all."""
    text = (ROOT / "Makefile").read_text()
    for target in targets():
        assert re.search(rf"^{target}:.*## \S", text, re.MULTILINE), f"Makefile: {target} has no ## description"
