"""``nocknode simnet`` with fake nodes: ``python driver.py MOOD up --peers 3 ...``. Errors end as in the real command line."""

import sys
from pathlib import Path

from node.errors import explain
from simnet.cli import simnet
from simnet.options import NodeProgram


def main() -> None:
    mood, *arguments = sys.argv[1:]
    program = NodeProgram((sys.executable, "-S", "-E", str(Path(__file__).with_name("fake_node.py")), "--mood", mood))
    try:
        simnet.main(arguments, prog_name="nocknode simnet", standalone_mode=False, obj=program)
    except Exception as error:
        failure = explain(error)
        print(f"nocknode: {failure.sentence}", file=sys.stderr)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
