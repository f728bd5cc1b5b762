"""The command `accelsim diff`."""

from __future__ import annotations

import argparse
from pathlib import Path


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim diff`."""
    parser.add_argument("first", type=Path, metavar="A.json", help="what `accelsim run --json` wrote")
    parser.add_argument("second", type=Path, metavar="B.json", help="of another run")
    parser.add_argument(
        "--fail-on",
        action="append",
        default=[],
        metavar="KEY=PERCENT",
        help="exit with 1 if this total of B is more than PERCENT above A's, such as cycles=2; repeatable",
    )
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the comparison as JSON; /dev/stdout: in place of the text"
    )


def diff(arguments: argparse.Namespace) -> int:
    """Compare two reports; 1 only where a limit is exceeded."""
    from accelsim.files import check_file, is_standard_output, write_json
    from accelsim.report.diff import compare_runs, parse_limits, show_run_difference
    from accelsim.report.saved import load_report

    limits = parse_limits(arguments.fail_on)
    if arguments.json is not None:
        check_file(arguments.json)
    names = (str(arguments.first), str(arguments.second))
    document = compare_runs(load_report(arguments.first), load_report(arguments.second), names, limits)
    code = 1 if any(one["exceeded"] for one in document["limits"]) else 0
    if arguments.json is not None:
        write_json(arguments.json, document)
        if is_standard_output(arguments.json):
            return code
    print(show_run_difference(document))
    return code
