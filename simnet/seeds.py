"""Seeds and processes as options of the virtual worlds: ``--seeds 17..20``, ``--jobs 8``. Pure."""

from __future__ import annotations

import re
from typing import Final

from protocol.rejection import Reason, Rejected

SEED_MAX: Final = 10**9
SEEDS_MAX: Final = 1_000_000
JOBS_MAX: Final = 256

_SEEDS: Final = re.compile(r"(?P<first>[0-9]{1,10})\.\.(?P<last>[0-9]{1,10})")


def parse_seeds(text: str) -> range:
    """``17..20``, both ends included; raises ``Rejected(BAD_ARGUMENT)``."""
    match = _SEEDS.fullmatch(text)
    if match is None:
        raise Rejected(Reason.BAD_ARGUMENT, f"--seeds {text}: write A..B, for example --seeds 0..99")
    first, last = int(match["first"]), int(match["last"])
    if first > last or last > SEED_MAX or last - first >= SEEDS_MAX:
        detail = f"--seeds {text}: at most {SEEDS_MAX} seeds, upwards, up to {SEED_MAX}"
        raise Rejected(Reason.BAD_ARGUMENT, detail)
    return range(first, last + 1)


def check_seed(seed: int) -> int:
    """One seed; raises ``Rejected(BAD_ARGUMENT)``."""
    if not 0 <= seed <= SEED_MAX:
        raise Rejected(Reason.BAD_ARGUMENT, f"--seed {seed}: it must be 0 to {SEED_MAX}")
    return seed


def check_jobs(jobs: int) -> int:
    """How many processes; raises ``Rejected(BAD_ARGUMENT)``."""
    if not 1 <= jobs <= JOBS_MAX:
        raise Rejected(Reason.BAD_ARGUMENT, f"--jobs {jobs}: it must be 1 to {JOBS_MAX}")
    return jobs
