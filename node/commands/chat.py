"""``nocknode chat``: the running node's model continues a text."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import data_dir_option, json_option, print_json


@click.command()
@click.argument("prompt")
@data_dir_option
@click.option("--tokens", type=click.IntRange(1, 4096), default=200, show_default=True, help="At most so many.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10),
    default=0.8,
    show_default=True,
    help="0: always the likeliest token. Higher: bolder.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Same seed, same text.")
@json_option
def chat(prompt: str, data_dir: Path, tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    """Let the running node's model continue PROMPT, piece by piece."""
    from node.commands.client import NodeClient

    asked = {"prompt": prompt, "tokens_max": tokens, "temperature": temperature, "seed": seed}
    text = ""
    done: dict[str, object] = {}
    for event in NodeClient(data_dir).stream("/generate", asked):
        piece = "" if event.get("done") else event["text"]
        if not as_json:
            click.echo(piece if text else prompt + piece, nl=False)
        text += piece
        done = event
    if as_json:
        print_json(
            {"prompt": prompt, "text": text, **{name: done.get(name) for name in ("tokens", "round", "receipt")}}
        )
    else:
        click.echo()
