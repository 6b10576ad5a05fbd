"""The star: who may import whom. `.importlinter` says it too; this reads imports inside functions and says the remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source import PACKAGES, ROOT, SIBLINGS, Broken, broken, check, imports, sources

MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    **{sibling: {"protocol"} for sibling in SIBLINGS},
    "node": {"protocol", *SIBLINGS, "configs"},
    "simnet": {"protocol", *SIBLINGS, "node", "configs"},
}
REMEDY = {
    "protocol": "The vocabulary knows nobody: move the code to whoever needs it",
    **dict.fromkeys(SIBLINGS, "Siblings meet in node/: pass a value of protocol/, or a function, in from there"),
    "node": "simnet stands above node: let it register itself by entry point or pass a function in",
    "simnet": "Tests and benchmarks are not part of the program",
}
# A library that one folder keeps to itself, so that replacing it is a change of that folder.
KEPT_BY: dict[str, tuple[str, ...]] = {
    "libp2p": ("p2p/io",),
    "rocksdict": ("storage/io",),
    "mmap": ("storage/io",),
    "torch": ("compute",),
    "starlette": ("node/api", "node"),
    "click": ("node", "simnet"),
    "matplotlib": ("simnet", "benchmarks"),
    "prometheus_client": ("node",),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_star_allows(package: str) -> None:
    """protocol nothing of ours; the four siblings protocol alone; node everything but simnet."""

    def found() -> Iterator[Broken]:
        ours = {*PACKAGES, "configs", "tests", "tools", "benchmarks"}
        for source in sources(package):
            for item in imports(source):
                top = item.name.split(".")[0]
                if top in ours - {package} - MAY_IMPORT[package]:
                    yield broken(source, item.line, f"{package} imports {item.name}", REMEDY[package])

    check(found())


@pytest.mark.parametrize("library", KEPT_BY)
def test_a_library_stays_in_its_folder(library: str) -> None:
    """Only p2p/io knows libp2p, only storage/io knows rocksdict and mmap, only compute knows torch."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            if not str(source.path).startswith(tuple(f"{folder}/" for folder in KEPT_BY[library])):
                for item in imports(source):
                    if item.name.split(".")[0] == library:
                        where = " or ".join(f"{folder}/" for folder in KEPT_BY[library])
                        yield broken(
                            source, item.line, f"imports {library}", f"Only {where} does: ask through its interface"
                        )

    check(found())


TORCH_FREE = (
    "protocol",
    "consensus",
    "p2p",
    "storage",
    "node",
    "compute.delta",
    "compute.merge",
    "compute.outer",
    "compute.exact",
)
TORCH_FREE_EXCEPT = ("node.__main__",)  # runs the program when imported
ASK = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        print(name)
        break
"""


def test_the_network_process_never_imports_torch() -> None:
    """torch costs a second and 250 MB: worker processes import it, and nothing that the node's own process imports does."""
    names = [source.module for source in sources(*PACKAGES)]
    wanted = [
        name
        for name in names
        if any(name == top or name.startswith(f"{top}.") for top in TORCH_FREE) and name not in TORCH_FREE_EXCEPT
    ]
    answer = subprocess.run([sys.executable, "-c", ASK, *wanted], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert not answer.stdout, (
        f"importing {answer.stdout.strip()} imports torch. Move that import into compute/io's worker process"
    )
