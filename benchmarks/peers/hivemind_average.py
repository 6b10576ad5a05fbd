"""Runs under hivemind's own Python: peers average tensors of 4 MiB, and processes join its distributed table.

    hivemind_average.py average TENSORS ROUNDS      4 peers, each a table process, an averager process and a network daemon
    hivemind_average.py join TIMES                  a process from its start until it can read the table

Prints one JSON object. It imports nothing of this repository: it needs `torch hivemind psutil` and no more.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PEERS = 4
TENSOR_VALUES = 1 << 20
MATCHMAKING_SECONDS = 1.0  # hivemind's smallest advisable; a round waits so long for its group
LOOPBACK_SENT = Path("/sys/class/net/lo/statistics/tx_bytes")
SETTLING_SECONDS = 1.0  # until the peers' tables know each other
ERROR_MAX = 1e-4  # an average further from the true one than this was none


def average(tensors: int, rounds: int) -> dict[str, Any]:
    """Step wall, the all-reduce alone, bytes on loopback and processor time of each round."""
    import hivemind
    import psutil
    import torch
    from hivemind import DHT, DecentralizedAverager

    torch.set_num_threads(1)
    log = Path(tempfile.mkdtemp()) / "allreduce"

    class Timed(DecentralizedAverager):  # type: ignore[misc]  # no types there
        async def _run_allreduce_inplace_(self, *arguments: Any, **named: Any) -> Any:
            began = time.time()
            result = await super()._run_allreduce_inplace_(*arguments, **named)
            with log.open("a") as file:
                file.write(json.dumps([began, time.time()]) + "\n")
            return result

    def processor_seconds() -> float:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        times = [process.cpu_times() for process in family]
        return sum(each.user + each.system for each in times)

    root = DHT(start=True)
    addresses = root.get_visible_maddrs()
    values = [
        [torch.linspace(0, 1, TENSOR_VALUES) + peer + number for number in range(tensors)] for peer in range(PEERS)
    ]
    wanted = [sum(values[peer][number] for peer in range(PEERS)) / PEERS for number in range(tensors)]
    tables = [DHT(initial_peers=addresses, start=True) for _ in range(PEERS)]
    averagers = [
        Timed(
            [tensor.clone() for tensor in values[peer]],
            tables[peer],
            prefix="tiles",
            target_group_size=PEERS,
            min_group_size=2,
            min_matchmaking_time=MATCHMAKING_SECONDS,
            request_timeout=0.6 * MATCHMAKING_SECONDS,
            start=True,
        )
        for peer in range(PEERS)
    ]
    threading.Event().wait(SETTLING_SECONDS)
    rows = []
    for _ in range(rounds):
        for peer, averager in enumerate(averagers):
            with averager.get_tensors() as held:
                for tensor, value in zip(held, values[peer], strict=True):
                    tensor.copy_(value)
        log.write_text("")
        results: list[Any] = [None] * PEERS

        def step(peer: int, results: list[Any] = results) -> None:
            try:
                results[peer] = averagers[peer].step(timeout=120)
            except Exception as error:  # a failed round is counted, not hidden
                print(repr(error), file=sys.stderr)

        sent, used, began = int(LOOPBACK_SENT.read_text()), processor_seconds(), time.perf_counter()
        threads = [threading.Thread(target=step, args=(peer,)) for peer in range(PEERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - began
        sent, used = int(LOOPBACK_SENT.read_text()) - sent, processor_seconds() - used
        errors = []
        for averager in averagers:
            with averager.get_tensors() as held:
                errors += [float((tensor - want).abs().max()) for tensor, want in zip(held, wanted, strict=True)]
        spans = [json.loads(line) for line in log.read_text().splitlines()]
        good = all(result is not None for result in results) and max(errors) < ERROR_MAX * PEERS * tensors
        alone = max(end for _, end in spans) - min(start for start, _ in spans) if spans else None
        rows.append({"step_s": wall, "allreduce_s": alone, "bytes": sent, "processor_s": used, "good": good})
        print(f"hivemind, {tensors} x 4 MiB: {wall:.3f} s", file=sys.stderr, flush=True)
    for averager in averagers:
        averager.shutdown()
    for table in [*tables, root]:
        table.shutdown()
    return {"version": hivemind.__version__, "rounds": rows}


def join(times: int) -> dict[str, Any]:
    """Seconds from starting a process until it has read the table that it joined."""
    import hivemind

    root = hivemind.DHT(start=True)
    address = str(root.get_visible_maddrs()[0])
    seconds = []
    for _ in range(times):
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, __file__, "joiner", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        seconds.append(time.time() - began)
        process.stdin.close()
        process.wait(30)
        print(f"hivemind joined in {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    root.shutdown()
    return {"version": hivemind.__version__, "seconds": seconds, "median_s": statistics.median(seconds)}


def joiner(address: str) -> None:
    """One process that joins, says so, and waits to be dismissed."""
    import hivemind

    table = hivemind.DHT(initial_peers=[address], start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    table.get("anything")
    print("joined", flush=True)
    sys.stdin.read()
    table.shutdown()


def main() -> None:
    """Dispatch by the first word."""
    what, arguments = sys.argv[1], sys.argv[2:]
    if what == "joiner":
        joiner(arguments[0])
        return
    result = average(*map(int, arguments)) if what == "average" else join(*map(int, arguments))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
