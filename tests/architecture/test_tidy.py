"""The house: front rooms, dead files, words that are not used here and what is written instead."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

from tests.architecture.source import (
    PACKAGES,
    ROOT,
    SIBLINGS,
    TEXTS,
    Broken,
    Source,
    broken,
    check,
    dotted,
    imports,
    sources,
)

OURS = (*PACKAGES, "benchmarks", "tools")
SELF = "tests/architecture/"  # the tables below name what they forbid

# Where a person is spoken to: everywhere else a value is returned, or an event is logged.
MAY_PRINT = ("benchmarks/", "tools/", "simnet/", "node/cli", "node/commands/", "node/__main__")

# What no module of ours imports, and why it is there all the same.
FOR_TESTS = {"p2p.io.memory_host": "the same Transport inside one process; it passes the tests of the real one"}

IMPORTS_NEVER = {
    "pickle": "It runs whatever the bytes say: use protocol.codec or a format with a drawing",
    "marshal": "Use protocol.codec",
    "shelve": "It is pickle: use storage/",
    "dill": "It is pickle: use protocol.codec",
    "cloudpickle": "It is pickle: use protocol.codec",
    "joblib": "It is pickle: use protocol.codec",
    "unittest": "Tests are pytest functions; what would be patched is passed in",
}
CALLS_NEVER = {
    "time.sleep": "Wait for the thing itself: trio.sleep in a shell, an event in a test",
    "os.system": "Use subprocess with a list of arguments",
    "torch.load": "It unpickles: read a format with a drawing",
    "yaml.load": "Configuration is TOML",
    "random.seed": "Make a Random(seed) and pass it",
    "np.random.seed": "Make a generator and pass it",
}
# A benchmark stands beside what we never use, on files that it has just written itself.
BESIDE_OURS = {
    "benchmarks/storage.py": ("pickle", "torch.load"),
    "benchmarks/programs/load_expert.py": ("pickle", "torch.load"),
}
# Regular expression -> what to do. Looked for in code, tests, configuration and texts.
WORDS_NEVER: dict[str, str] = {
    r"#\s*type:\s*ignore(?!\[)": "Name the code and the reason: # type: ignore[code]  # why",
    r"#\s*noqa\b(?!:)": "Name the rule and the reason: # noqa: RULE - why",
    r"\b(TODO|FIXME|XXX|HACK)\b": "Do it, or write an entry where work is planned",
    r"(?<![\w.~])/(work|home|root|Users)/": "A path of one machine: pass it, or make it from __file__",
    r"\b(pypi\.org|pythonhosted\.org|download\.pytorch\.org|ghcr\.io|docker\.io)\b": "No registry host: pip's settings name it",
    r"\bmonkeypatch\b": "Pass the thing in; a test that patches shows a decision hidden in a shell",
    r"\ballow_pickle\s*=\s*True\b": "Read with frombuffer",
}


def texts() -> Iterator[tuple[str, str]]:
    """Every file that people write: its path and its text."""
    paths = [ROOT / name for name in TEXTS]
    for folder in (*OURS, "tests"):
        paths.extend((ROOT / folder).rglob("*.py"))
    for folder, pattern in (("configs", "*.toml"), ("docs", "*.md"), ("newsfragments", "*.md")):
        paths.extend((ROOT / folder).rglob(pattern))
    for path in sorted(paths):
        name = str(path.relative_to(ROOT))
        if path.exists() and not name.startswith(SELF):
            yield name, path.read_text(encoding="utf-8")


def test_words_that_are_never_used() -> None:
    """Each with what is written instead."""
    check(
        Broken(name, number, f"says {match.group(0)!r}", remedy)
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, remedy in WORDS_NEVER.items()
        if (match := re.search(pattern, line))
    )


def test_libraries_and_calls_that_are_never_used() -> None:
    """In tests neither."""

    def found() -> Iterator[Broken]:
        for source in sources(*OURS, "tests"):
            if str(source.path).startswith(SELF):
                continue
            allowed = BESIDE_OURS.get(str(source.path), ())
            for item in imports(source):
                top = item.name.split(".")[0]
                if top in IMPORTS_NEVER and top not in allowed:
                    yield broken(source, item.line, f"imports {item.name}", IMPORTS_NEVER[top])
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and (name := dotted(node.func)) in CALLS_NEVER and name not in allowed:
                    yield broken(source, node.lineno, f"calls {name}()", CALLS_NEVER[name])

    check(found())


def test_only_the_command_line_prints() -> None:
    """A node is a service: what it has to say goes to its log or into a value."""
    check(
        broken(source, node.lineno, "calls print()", "Return a value, log an event, or use click.echo in a command")
        for source in sources(*PACKAGES)
        if not str(source.path).startswith(MAY_PRINT)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    )


def test_nothing_catches_a_broken_invariant() -> None:
    """A bare except, or one of BaseException, must raise again: else a node lives on with a broken rule."""

    def found() -> Iterator[Broken]:
        for source in sources(*OURS):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.ExceptHandler):
                    caught = {"everything"} if node.type is None else {dotted(part) for part in _parts(node.type)}
                    wide = caught & {"everything", "BaseException", "InvariantBroken", "rejection.InvariantBroken"}
                    raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
                    if wide and not raises:
                        remedy = "Catch the narrowest error that you can do something about, or raise again"
                        yield broken(source, node.lineno, f"catches {min(wide)}", remedy)

    check(found())


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def test_invariants_are_raised_not_asserted() -> None:
    """`python -O` removes assertions, and a broken invariant must stop the node there too: where things are decided."""
    check(
        broken(source, node.lineno, "asserts", "Use protocol.rejection.check_invariant, or raise Rejected")
        for source in sources("protocol", *SIBLINGS, "node")
        if not source.is_outside
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assert)
    )


def test_every_package_has_a_front_room() -> None:
    """A folder of modules has an ``__init__`` that says what it is for; every module says what it holds."""

    def found() -> Iterator[Broken]:
        for source in sources(*OURS):
            if not (ROOT / source.path).with_name("__init__.py").exists() and source.package in PACKAGES:
                folder = str(source.path.parent)
                yield Broken(
                    f"{folder}/__init__.py", 1, "does not exist", "Write its docstring: purpose, reading order"
                )
            if not ast.get_docstring(source.tree):
                yield broken(source, 1, "has no docstring", "Say in a sentence what the file holds")

    check(found())


def test_every_test_states_a_fact() -> None:
    """A test's docstring is the behaviour, as a sentence."""

    def found() -> Iterator[Broken]:
        for source in sources("tests"):
            for node in ast.walk(source.tree):
                if (
                    isinstance(node, ast.FunctionDef)
                    and node.name.startswith("test_")
                    and source.path.name.startswith("test_")
                ):
                    sentence = ast.get_docstring(node)
                    if not sentence:
                        yield broken(
                            source, node.lineno, f"{node.name} has no docstring", "State the behaviour as a fact"
                        )

    check(found())


def entry_points() -> set[str]:
    """Modules that something outside of Python starts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
    return {target.split(":")[0] for group in groups for target in group.values()}


def test_there_is_no_dead_module() -> None:
    """Every module is imported by another module of ours, is an entry point, or is started by name in another process."""
    all_sources = sources(*PACKAGES)
    used = entry_points() | set(FOR_TESTS)
    for source in sources(*OURS):
        used.update(item.name for item in imports(source) if item.name != source.module)
        # `python -m compute.io.worker`, and tables that name modules, say a module in a string.
        strings = (node.value for node in ast.walk(source.tree) if isinstance(node, ast.Constant))
        used.update(value.split(":")[0] for value in strings if isinstance(value, str) and _is_name_of(value, source))
    check(
        broken(source, 1, "is imported by nobody", "Delete it, or use it")
        for source in all_sources
        if source.path.name not in ("__init__.py", "__main__.py") and source.module not in used
    )


def _is_name_of(value: str, source: Source) -> bool:
    name = value.split(":")[0]
    return re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", name) is not None and name != source.module


def test_decisions_are_numbered_and_tell_their_price() -> None:
    """docs/decisions/NNNN-name.md: context, choice, price."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Choice", "Price"], f"{page.name}: {headings}"


def test_newsfragments_have_a_known_type() -> None:
    """`+name.feature.md`: towncrier ignores what it does not know, silently."""
    kinds = {
        kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    }
    for path in (ROOT / "newsfragments").iterdir():
        if path.name != "README.md" and not path.name.startswith("."):
            assert re.fullmatch(rf"\+[a-z-]+\.({'|'.join(sorted(kinds))})\.md", path.name), path.name
            assert path.read_text().strip().endswith("."), f"{path.name} is not a sentence"


# Names in the guides that are no paths of the repository: what is made, and a kind of folder.
NOT_OF_THE_TREE = {"site/", "devnet/", "config.toml", "io/"}


def test_paths_named_in_the_guides_exist() -> None:
    """ARCHITECTURE.md, CONTRIBUTING.md and README.md speak of the tree as it is."""

    def found() -> Iterator[Broken]:
        for guide in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
            for number, line in enumerate((ROOT / guide).read_text().splitlines(), 1):
                for name in re.findall(r"`([\w./-]+(?:/|\.py|\.md|\.toml|\.txt))`", line):
                    if name not in NOT_OF_THE_TREE and not (ROOT / name).exists():
                        yield Broken(guide, number, f"names {name}, which does not exist", "Say what is there")

    check(found())


def test_this_file_knows_every_package() -> None:
    """A new package joins the table of PACKAGES, and so every rule."""
    known = {*OURS, "tests", "docs", "configs", "newsfragments", "build", "site", "devnet"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders <= known, f"{sorted(folders - known)}: add it to tests/architecture/source.py"
