"""Hostile bytes for every decoder of the project.

    python -m tests.fuzz                                all of them, a minute in all
    python -m tests.fuzz transaction genesis            some
    python -m tests.fuzz --seconds 600 --seed 7 --json  longer, other inputs, one JSON object
    python -m tests.fuzz transaction --seed 7 --try 12  one input, with its traceback

A decoder may accept or raise ``Rejected``; anything else, and an allocation out of all proportion, is found: the input, and
the command that repeats it. The exit status is then 1. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.fuzz.decoders import DECODERS
from tests.fuzz.run import Outcome, fuzz, input_of

NAMES = {decoder.name: decoder for decoder in DECODERS}


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help="which of them; all if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them together")
    parser.add_argument("--tries", type=int, help="for each of them, instead of seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--try", type=int, dest="number", help="this one try of one decoder, and let its exception through"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="one object on stdout")
    parser.add_argument("--list", action="store_true", help="the names of the decoders")
    options = parser.parse_args()
    if unknown := [name for name in options.decoders if name not in NAMES]:
        parser.error(f"no decoder {unknown[0]!r}; --list names them")
    chosen = [NAMES[name] for name in options.decoders or NAMES]
    if options.list:
        print("\n".join(decoder.name for decoder in chosen))
        return 0
    if options.number is not None:
        for decoder in chosen:
            data = input_of(decoder, options.seed, options.number)
            print(f"{decoder.name}: {len(data)} bytes, {data[:500].hex()}", flush=True)
            print(repr(decoder.decode(data))[:500])
        return 0
    seconds = None if options.tries is not None else options.seconds / len(chosen)
    outcomes = []
    for decoder in chosen:
        outcomes.append(fuzz(decoder, options.seed, tries=options.tries, seconds=seconds))
        if not options.as_json:
            print(_line(outcomes[-1]), flush=True)
    if options.as_json:
        print(json.dumps({"seed": options.seed, "decoders": [outcome.as_json() for outcome in outcomes]}))
    found = [found for outcome in outcomes for found in outcome.found]
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


def _line(outcome: Outcome) -> str:
    refused = ", ".join(f"{reason} {count}" for reason, count in outcome.rejected.most_common())
    ratio = outcome.slowest_us / outcome.median_us if outcome.median_us else 0.0
    return (
        f"{outcome.decoder:<22} {outcome.tries:>8} tries  {outcome.accepted:>7} accepted  "
        f"at most {outcome.allocated_bytes_max:>9} bytes for {outcome.allocated_of_bytes}  "
        f"median {outcome.median_us:.0f} us, slowest {ratio:.0f} times that ({outcome.slowest_bytes} bytes)  "
        f"{f'FOUND {outcome.failed}  ' if outcome.failed else ''}[{refused}]"
    )


if __name__ == "__main__":
    sys.exit(main())
