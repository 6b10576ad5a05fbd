"""Decide here, act there: what a rule may not do, and where the outside may be touched.

protocol/, consensus/                no async, no float, no library but those listed, nothing of the world
p2p/, storage/, compute/ not in io/  no async, no file, socket, process or clock, no randomness of their own
node/clock.py                        the only reader of the wall clock
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.source import PACKAGES, Broken, Source, broken, check, dotted, imports, sources

PURE = ("protocol", "consensus")
# Everything else of the standard library can reach the world, or a float.
PURE_LIBRARIES = {
    *(
        "__future__",
        "abc",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
    ),
    *(
        "operator",
        "struct",
        "types",
        "typing",
        "typing_extensions",
        "msgpack",
        "msgspec",
        "nacl",
        "protocol",
        "consensus",
    ),
}
WORLD_CALLS = {
    "open": "Files are opened in an io/ folder",
    "print": "Return a value; the command line prints",
    "input": "Take an argument",
    "breakpoint": "Remove it",
    "hash": "hash() of text differs between processes: use protocol.digest",
    "eval": "Write the table that you mean",
    "exec": "Write the function that you mean",
}
WORLD_LIBRARIES = {
    **dict.fromkeys(
        ("trio", "asyncio", "anyio", "threading", "concurrent", "queue", "select"), "Shells wait: move it to io/"
    ),
    **dict.fromkeys(("socket", "ssl", "http", "urllib", "httpx", "requests"), "Sockets live in io/"),
    **dict.fromkeys(("subprocess", "multiprocessing", "signal"), "Processes live in io/"),
    **dict.fromkeys(("os", "shutil", "tempfile", "glob", "fcntl", "io"), "Files live in io/: take and return bytes"),
    **dict.fromkeys(("time", "datetime", "sched"), "Take now_ms as an argument; node/clock.py reads the clock"),
    **dict.fromkeys(("secrets", "uuid"), "Take a seed or a generator as an argument"),
}
CLOCKS = {
    *("time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
}
GENERATORS = {"Random", "SystemRandom"}  # of `random`: the types; its functions share one hidden generator
NUMPY_GENERATORS = {"Generator", "default_rng", "PCG64", "Philox", "SeedSequence", "BitGenerator"}
TORCH_RANDOM = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like"}


def inside() -> tuple[Source, ...]:
    """The files that decide, outside of the two pure packages."""
    return tuple(source for source in sources("p2p", "storage", "compute") if not source.is_outside)


def asynchronous(source: Source) -> Iterator[Broken]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield broken(source, node.lineno, "waits", "A rule answers at once: return an effect, and let a shell wait")


def world_calls(source: Source) -> Iterator[Broken]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in WORLD_CALLS:
            name = dotted(node.func)
            yield broken(source, node.lineno, f"calls {name}()", WORLD_CALLS[name])


def test_nothing_in_the_rules_waits() -> None:
    """No async def and no await in protocol/ and consensus/, nor in the other siblings outside io/."""
    check(item for source in (*sources(*PURE), *inside()) for item in asynchronous(source))


def test_the_rules_import_only_what_cannot_touch_the_world() -> None:
    """protocol/ and consensus/ import from a short list; `math` is not on it, because it is full of floats."""

    def found() -> Iterator[Broken]:
        for source in sources(*PURE):
            for item in imports(source):
                if item.name.split(".")[0] not in PURE_LIBRARIES:
                    remedy = "Take what it would give as an argument, or return an effect"
                    yield broken(source, item.line, f"imports {item.name} into a pure package", remedy)

    check(found())


def test_there_is_no_float_in_the_rules() -> None:
    """Neither a literal, nor the name, nor a true division: two machines must get the same answer."""

    def found() -> Iterator[Broken]:
        for source in sources(*PURE):
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
                    yield broken(source, node.lineno, f"holds the float {node.value}", "Use integers in millionths")
                elif isinstance(node, ast.Name) and node.id in ("float", "complex"):
                    yield broken(source, node.lineno, f"names {node.id}", "Use integers")
                elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                    yield broken(source, node.lineno, "divides into a float", "Use // and say which way it rounds")
                elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _is_negative(node.right):
                    yield broken(
                        source, node.lineno, "raises to a negative power", "Divide by the positive power with //"
                    )

    check(found())


def _is_negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def test_the_rules_open_and_print_nothing() -> None:
    """Nor does anything in the other siblings outside io/."""
    check(item for source in (*sources(*PURE), *inside()) for item in world_calls(source))


def test_the_world_is_touched_in_io_folders_only() -> None:
    """In p2p/, storage/ and compute/ outside io/: no files, sockets, processes, threads, clocks or hidden randomness."""

    def found() -> Iterator[Broken]:
        for source in inside():
            for item in imports(source):
                top = item.name.split(".")[0]
                if top in WORLD_LIBRARIES:
                    yield broken(source, item.line, f"imports {item.name}", WORLD_LIBRARIES[top])

    check(found())


def test_randomness_is_passed_in() -> None:
    """Whoever draws takes a generator: a hidden one would make two runs of one seed differ."""

    def found() -> Iterator[Broken]:
        remedy = "Take a seeded generator as an argument"
        for source in (*sources(*PURE), *inside(), *sources("simnet")):
            for item in imports(source):
                if item.name.startswith("random.") and item.name.split(".")[1] not in GENERATORS:
                    yield broken(source, item.line, f"imports {item.name}", remedy)
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Attribute) and not _draws_from_a_generator(node):
                    yield broken(source, node.lineno, f"uses {dotted(node)}", remedy)
                if isinstance(node, ast.Call) and _is_hidden_torch_draw(node):
                    yield broken(source, node.lineno, f"calls {dotted(node.func)}() without generator=", remedy)
                if isinstance(node, ast.Call) and dotted(node.func).endswith("default_rng") and not node.args:
                    yield broken(source, node.lineno, "calls default_rng() without a seed", remedy)

    check(found())


def _draws_from_a_generator(node: ast.Attribute) -> bool:
    module, _, name = dotted(node).rpartition(".")
    if module == "random":
        return name in GENERATORS
    return module not in ("np.random", "numpy.random") or name in NUMPY_GENERATORS


def _is_hidden_torch_draw(node: ast.Call) -> bool:
    module, _, name = dotted(node.func).rpartition(".")
    return module == "torch" and name in TORCH_RANDOM and not any(word.arg == "generator" for word in node.keywords)


def test_one_file_reads_the_clock() -> None:
    """node/clock.py; in io/ folders and in simnet a duration may be measured, by a monotonic clock."""

    def found() -> Iterator[Broken]:
        for source in sources(*PACKAGES):
            if str(source.path) == "node/clock.py":
                continue
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Attribute) and dotted(node) in CLOCKS:
                    yield broken(
                        source, node.lineno, f"reads {dotted(node)}", "Take now_ms; node/clock.py reads the clock"
                    )
            for item in imports(source):
                module, _, name = item.name.rpartition(".")
                if module == "time" and f"time.{name}" in CLOCKS:
                    yield broken(
                        source, item.line, f"imports {item.name}", "Take now_ms; node/clock.py reads the clock"
                    )
                if item.name == "time" and not source.is_outside and source.package != "simnet":
                    yield broken(
                        source, item.line, "imports time", "Durations are measured in io/; the clock is node/clock.py"
                    )

    check(found())
