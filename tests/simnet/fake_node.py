"""A node that learns nothing and says everything: the command line and the HTTP interface of `nocknode`, faked.

Rounds follow the clock, losses a formula, owners a rotation among the peers whose process lives. Like a node it starts a worker
process, and unlike a node it leaves it behind on SIGTERM, so that whoever starts nodes shows that nothing survives.

    fake_node.py [--mood MOOD] keys new | init --new | init --join | start | tiles verify
    moods: "deaf" ignores SIGTERM; "split" holds other roots than the rest; "stall" stalls in round 1; "corrupt" fails verify;
    "bug" ends with code 1, and not 2, on a full disk
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GROUPS = ["trunk/0", "trunk/1"] + [
    f"layer{n}.{part}/0" for n in range(4) for part in ("attention", *(f"expert{e}" for e in range(8)))
]
TILE_VALUES = 65536


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mood", default="")
    parser.add_argument("words", nargs="+")
    for option in (
        "network",
        "model",
        "corpus",
        "round-seconds",
        "join",
        "network-id",
        "data-dir",
        "listen",
        "announce",
        "device",
        "threads",
    ):
        parser.add_argument(f"--{option}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--member", action="append", default=[])
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    directory = Path(options.data_dir)
    match options.words:
        case ["keys", "new"]:
            directory.mkdir(parents=True)
            print(json.dumps({"member": f"member-of-{directory.name}"}))
        case ["init"] if options.new:
            if options.corpus and not Path(options.corpus).read_bytes():
                print("nocknode: The corpus cannot be used: it is empty; name a file with text", file=sys.stderr)
                return 2
            directory.mkdir(parents=True)
            config = {
                "members": 1 + len(options.member),
                "round_seconds": float(options.round_seconds or 3),
                "network_id": "ab" * 32,
            }
            (directory / "fake.json").write_text(json.dumps(config))
            print("working ...", file=sys.stderr)
            print(json.dumps({"network_id": config["network_id"], "genesis": "genesis.bin"}))
        case ["init"]:
            port = options.join.split("/")[4]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/fake") as answer:
                (directory / "fake.json").write_bytes(answer.read())
            print(json.dumps({"network_id": options.network_id}))
        case ["start"]:
            Node(options, directory).serve()
        case ["tiles", "verify"]:
            if "corrupt" in options.mood and directory.name == "peer-1":
                print("nocknode: trunk/0 has another root than its head", file=sys.stderr)
                return 1
            print(json.dumps({"tiles": len(GROUPS), "roots": 99}))
        case words:
            raise SystemExit(f"unknown command {words}")
    return 0


class Node:
    """What one fake node knows, computed from the clock."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.directory, self.mood = directory, options.mood
        self.index, self.rounds = int(directory.name.split("-")[1]), options.rounds
        self.config = json.loads((directory / "fake.json").read_text())
        self.config.setdefault("epoch", time.time() + 0.5)
        (directory / "fake.json").write_text(json.dumps(self.config))
        self.announce = options.announce
        self.booted = time.time()
        # A group of its own, as a node's worker has.
        self.worker = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (directory / "worker.pid").write_text(str(self.worker.pid))
        if "deaf" in self.mood:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    def serve(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"node": self}))
        port = server.server_address[1]
        api = {"pid": os.getpid(), "url": f"http://127.0.0.1:{port}", "peer": f"12D3KooW{self.short(self.index)}"}
        api["listening"] = [f"/ip4/127.0.0.1/tcp/{port}"]
        api["addresses"] = [f"{self.announce or api['listening'][0]}/p2p/12D3KooW{self.short(self.index)}"]
        (self.directory / "api.new").write_text(json.dumps(api))
        (self.directory / "api.new").rename(self.directory / "api.json")
        print(f"listening on {port}", file=sys.stderr, flush=True)
        server.serve_forever()

    @staticmethod
    def short(index: int) -> str:
        return hashlib.sha256(b"peer%d" % index).hexdigest()[:6]

    def alive(self) -> list[int]:
        found = []
        for index in range(self.config["members"]):
            try:
                os.kill(json.loads((self.directory.parent / f"peer-{index}" / "api.json").read_text())["pid"], 0)
                found.append(index)
            except (OSError, ValueError):
                continue
        return found

    def round_now(self) -> int:
        elapsed = int(max(0.0, time.time() - self.config["epoch"]) / self.config["round_seconds"])
        return min(elapsed, 1 if "stall" in self.mood else self.rounds)

    def owners(self) -> dict[str, int]:
        alive = self.alive() or [self.index]
        return {tile: alive[(place + self.round_now()) % len(alive)] for place, tile in enumerate(GROUPS)}

    @staticmethod
    def loss(number: int) -> float:
        return 2.5 + 3.1 * 0.75 ** (number + 1) + 0.03 * (number % 3)

    def root(self, tile: str, version: int) -> str:
        salt = self.index if "split" in self.mood and self.index == 1 and version > 1 else 0
        return hashlib.sha256(f"{tile} {version} {salt}".encode()).hexdigest()

    def write(self) -> None:
        """What keeps it going, as a node's journal does: where nothing can be written, it stops with a sentence."""
        try:
            (self.directory / "journal").write_text(str(self.round_now()))
        except OSError:
            print("nocknode: the disk is full; make room", file=sys.stderr, flush=True)
            self.worker.kill()
            os._exit(1 if "bug" in self.mood else 2)

    def status(self) -> dict:
        self.write()
        now, owned = self.round_now(), list(self.owners().values()).count(self.index)
        done, stalled = now >= self.rounds, "stall" in self.mood and now == 1
        state = (
            "done"
            if done
            else "stalled"
            if stalled
            else ("learning", "learning", "merging", "waiting")[int(time.time() * 2) % 4]
        )
        return {
            "peer": f"12D3KooW{self.short(self.index)}", "short": self.short(self.index), "network": "devnet",
            "network_id": self.config["network_id"], "state": state,
            "detail": "only 2 of 4 members are reachable; 3 are needed" if stalled else "30 steps on the corpus",
            "member": True, "roster": 4, "reachable": 3, "quorum": 3, "connected": 3, "round": now, "rounds": now,
            "tokens": now * 61440, "tokens_per_second": 0.0 if done else 1280.0 + 17 * self.index,
            "val_loss": self.loss(now - 1) if now else None, "tiles": len(GROUPS), "tiles_owned": owned, "lagging": [],
            "takeovers": 0, "rejected": {"expired": 2}, "bytes_sent": int(1_200_000 * (time.time() - self.booted)),
            "device": "cpu",
        }  # fmt: skip

    def round_entry(self, number: int) -> dict:
        closed = number < self.round_now()
        lags = [
            {"tile": "layer2.expert5/0", "version": number + 1, "reason": "no delta arrived: the expert was never used"}
        ]
        raw = len(GROUPS) * TILE_VALUES * 4
        shares = {self.short(peer): list(self.owners().values()).count(peer) for peer in range(self.config["members"])}
        return {
            "round": number, "opened_ms": 1, "closed_ms": 2 if closed else None, "tiles": len(GROUPS),
            "tiles_advanced": (len(GROUPS) - (number == 2)) if closed else 0, "lagging": lags if number == 2 else [],
            "takeovers": 9 if number == 3 else 0, "val_loss": self.loss(number) if closed else None, "tokens": 245760,
            "delta_float32_bytes": raw, "delta_payload_bytes": raw // 41, "bytes_sent": raw // (12 + number % 4),
            "owners": {peer: count for peer, count in shares.items() if count}, "merged_deltas": len(GROUPS) * 4,
        }  # fmt: skip

    def answer(self, path: str) -> object:
        now = self.round_now()
        match path.strip("/").split("/"):
            case ["status"]:
                return self.status()
            case ["rounds"]:
                return [self.round_entry(number) for number in range(min(now + 1, self.rounds))]
            case ["rounds", number] if int(number) < now:
                return {
                    "round": int(number),
                    "slots": {tile: [int(number) + 1, self.root(tile, int(number) + 1)] for tile in GROUPS},
                }
            case ["tiles"]:
                owners = self.owners()
                return [
                    {"tile": tile, "version": now, "root": self.root(tile, now), "owner": self.short(owners[tile]),
                     "attempt": 0, "round": now, "values": TILE_VALUES, "deltas": 4, "tokens": 1}
                    for tile in GROUPS
                ]  # fmt: skip
            case ["peers"]:
                return [
                    {
                        "peer": "x",
                        "short": "x",
                        "addresses": [],
                        "connected": True,
                        "member": True,
                        "rtt_ms": 1.4 + self.index,
                    }
                ]
            case ["fake"]:
                return self.config
        return None


class Handler(BaseHTTPRequestHandler):
    """GET, and nothing else."""

    node: Node

    def do_GET(self) -> None:
        found = self.node.answer(self.path)
        body = json.dumps(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
