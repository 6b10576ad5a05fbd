"""``nocknode answers``: what this node's door said, and whether the model says it."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import console, data_dir_option, instant_text, json_option, number_text, print_json, table
from node.errors import CommandFailed


@click.group(invoke_without_command=True)
@data_dir_option
@json_option
@click.pass_context
def answers(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """What was answered here: list, save, audit. Alone: the newest."""
    if context.invoked_subcommand is not None:
        return
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get("/security/answers")
    if as_json:
        print_json(facts)
        return
    if not facts["answers"]:
        console().print("No answer is kept here; ask for one with: nocknode chat PROMPT")
        return
    made = table("", ("answer", "begun", ">prompt tokens", ">tokens"))
    for answer in facts["answers"]:
        counts = (number_text(answer[name]) for name in ("prompt_tokens", "tokens"))
        made.add_row(answer["answer"], instant_text(answer["began_ms"]), *counts)
    console().print(made)


@answers.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@data_dir_option
def save(name: str, file: Path, data_dir: Path) -> None:
    """Write an answer with its prompt and its receipt to FILE, for another node to audit. NAME: see nocknode answers."""
    from node.commands.client import NodeClient

    file.write_bytes(NodeClient(data_dir).read(f"/security/answers/{name}/record"))


@answers.command()
@click.argument("name", required=False)
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="What another node saved.")
@data_dir_option
@json_option
def audit(name: str | None, file: Path | None, data_dir: Path, as_json: bool) -> None:
    """Compute an answer again: is it what the model says? NAME: see nocknode answers; without one the newest.

    The exit code is 1 when it is not.
    """
    from node.commands.client import NodeClient

    client = NodeClient(data_dir)
    if file is not None:
        facts = client.post_long("/security/verify_audit", {"record": file.read_bytes().hex()})
    else:
        kept = client.get("/security/answers")["answers"] if name is None else [{"answer": name}]
        if not kept:
            raise CommandFailed("this node gave no answer yet; ask it with: nocknode chat PROMPT")
        facts = client.post_long(f"/security/verify_audit/{kept[0]['answer']}")
    if as_json:
        print_json(facts)
    else:
        _tell(facts)
    if facts["verdict"].startswith("other"):
        raise click.exceptions.Exit(1)


def _tell(facts: dict[str, object]) -> None:
    out = console()
    margin = "endless" if facts["margin_max"] is None else f"{facts['margin_max']:.2g} logits"
    rows = (
        ("answer", facts["answer"]),
        ("by", facts["door"]),
        ("tokens", f"{facts['tokens']:,}" + ("" if facts["is_ended"] else ", then its reader left")),
        ("others", f"{facts['others_total']:,}" + (f", up to {margin} away" if facts["others_total"] else "")),
        ("verdict", facts["says"]),
    )
    for what, said in rows:
        out.print(f"[bold]{what:10}[/bold] {said}")
