"""The command line. This file knows the names of commands and nothing else, so that ``--help`` is quick.

A command's module is imported when the command is called. Commands that live above the node (`simnet`) register under the
entry-point group ``nocknode.commands``; the node never imports them by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Final

import click

# name -> (module, attribute, one line for --help)
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "init": ("node.commands.init", "init", "Make a data directory: found a network, or join one."),
    "start": ("node.commands.start", "start", "Run the node of a data directory."),
    "status": ("node.commands.facts", "status", "What the running node is doing."),
    "peers": ("node.commands.facts", "peers", "Whom the running node knows."),
    "tiles": ("node.commands.tiles", "tiles", "The model's tiles, their versions and owners; verify them."),
    "experts": ("node.commands.experts", "experts", "The model's experts, and who computes them for this node."),
    "chain": ("node.commands.chain", "chain", "What the network agreed on: blocks, transactions, proofs."),
    "checkpoint": (
        "node.commands.checkpoint",
        "checkpoint",
        "States with which others can join: list, export, import, verify.",
    ),
    "api-key": (
        "node.commands.api_key",
        "api_key",
        "Let others ask this node for text: make, list and end their keys.",
    ),
    "kept": ("node.commands.kept", "kept", "What the network keeps as coded cells, and this node's share."),
    "recovery": ("node.commands.recovery", "recovery", "After a disaster: repair this machine's data, or the chain."),
    "validators": ("node.commands.validators", "validators", "Who votes, with what stake."),
    "wallet": ("node.commands.wallet", "wallet", "This data directory's account: address, balance, stake."),
    "tx": ("node.commands.tx", "tx", "Send money, stake it, become a validator or stop being one."),
    "chat": ("node.commands.chat", "chat", "Let the running node's model continue a text."),
    "badge": ("node.commands.badge", "badge", "What the running node verified about itself, and when."),
    "answers": ("node.commands.answers", "answers", "What this node's door said: list, save, audit."),
    "alerts": ("node.commands.alerts", "alerts", "What deserves attention now, and what to do."),
    "doctor": (
        "node.commands.doctor",
        "doctor",
        "Say what is wrong with this machine or data directory, and what to do.",
    ),
    "keys": ("node.commands.keys", "keys", "Make keys, or print the public half."),
    "bench": ("node.commands.bench", "bench", "List or run the benchmarks."),
}
PLUGINS: Final = "nocknode.commands"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, and described from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in _plugins() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            loaded = getattr(importlib.import_module(module), attribute)
        elif cmd_name in _plugins():
            loaded = _plugins()[cmd_name].load()
        else:
            return None
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (name, COMMANDS[name][2] if name in COMMANDS else self._plugin_help(ctx, name))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"did you mean {near[0]}?" if near else "see nocknode --help"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def _plugin_help(self, ctx: click.Context, name: str) -> str:
        try:
            command = self.get_command(ctx, name)
        except ImportError as error:
            return f"(cannot be loaded: {error})"
        return command.get_short_help_str(80) if command is not None else ""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="nocknode", prog_name="nocknode")
def nocknode() -> None:
    """A peer-to-peer node with which machines train, keep and serve one mixture-of-experts model.

    All at once, on this machine: nocknode simnet up
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit; the only place where errors become sentences (see `node.errors`)."""
    try:
        result = nocknode.main(arguments, prog_name="nocknode", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)  # without its standalone mode, click returns exit codes
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _say(_one_sentence(error))
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(0)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        from node.errors import explain

        failure = explain(error)
        _say(failure.sentence)
        sys.exit(failure.exit_code)


def _one_sentence(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _say(sentence: str) -> None:
    if sentence:
        click.echo(f"nocknode: {' '.join(sentence.split())}", err=True)


def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=PLUGINS)}
