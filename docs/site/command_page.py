"""The page of the command line, written from the parser: a section for each command, an entry for each option."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

PLACE = "% the commands\n"
"""Stands in docs/cli.md where the sections belong."""
WIDTH = 88


def _formatter(parser: argparse.ArgumentParser) -> argparse.HelpFormatter:
    return parser.formatter_class(prog=parser.prog, width=WIDTH)


def leaves(parser: argparse.ArgumentParser, summary: str = "") -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Every command that does something, with its summary, in the order of `--help`."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        summaries = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for name, sub in group.choices.items():
            yield from leaves(sub, summaries[name])
    if not groups:
        yield parser, summary


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One argument: its names and what follows them, then its help."""
    value = action.metavar or action.dest.upper()
    value = f" {value}" if action.nargs != 0 else ""
    names = ", ".join(name + value for name in action.option_strings) or value.strip()
    text = _formatter(parser)._expand_help(action).replace("<", "&lt;")
    return f"```{{option}} {names}\n{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}\n```\n"


def _section(parser: argparse.ArgumentParser, summary: str) -> str:
    usage = _formatter(parser)
    usage.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    text = parser.description or summary
    options = [_option(parser, action) for action in parser._actions if action.help and action.dest != "help"]
    return "\n".join(
        [
            f"## {parser.prog}\n",
            f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}\n",
            f"```text\n{usage.format_help().strip()}\n```\n",
            f":::{{program}} {parser.prog}\n:::\n",
            *options,
        ]
    )


def command_page(parser: argparse.ArgumentParser) -> str:
    """In MyST Markdown: a table of the commands, then their sections."""
    found = list(leaves(parser))
    rows = [f"| [`{one.prog}`](#{one.prog.replace(' ', '-')}) | {summary} |" for one, summary in found]
    sections = [_section(one, summary) for one, summary in found]
    return "\n".join(["| command | does |", "|---|---|", *rows, "", *sections])
