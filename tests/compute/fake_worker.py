"""A worker without torch, for tests of the pool: what it does is spelled in the jobs that it gets.

Hello         answers Ready, and counts the greetings
Learn         `round` steps, a checkpoint after each, answering Progress; round 0 never ends; with an output_folder
              every step waits for a file of that name, so that a test decides when it goes on
Evaluate      validation_sequences: 1 exits, 2 raises, 3 says Progress and hangs without checkpoints, 4 prints to both outputs,
              5 writes garbage, 6 has a bug
DecodeStep    says nothing of any answer
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from compute.io.worker_loop import Desk, serve
from compute.jobs import (
    AnyReply,
    Decoded,
    DecodeStep,
    DeviceReport,
    Evaluate,
    EvaluateDone,
    Hello,
    Learn,
    LearnDone,
    Progress,
    Ready,
)
from protocol.rejection import Reason, Rejected


def hello(job: Hello, desk: Desk) -> AnyReply:
    return Ready(DeviceReport("cpu", "fake", job.threads, 1, 1, 0, 1, 0, "none"), os.getpid())


def learn(job: Learn, desk: Desk) -> AnyReply:
    step = 0
    while not job.round or step < job.round:
        while job.output_folder and not Path(job.output_folder).exists():
            desk.checkpoint()
            os.sched_yield()
        desk.send(Progress(step, job.round, 0.0))
        desk.checkpoint()
        step += 1
    return LearnDone(job.round, (), "", step, 0.0, 0)


def evaluate(job: Evaluate, desk: Desk) -> AnyReply:
    match job.validation_sequences:
        case 1:
            os._exit(3)
        case 2:
            raise Rejected(Reason.BAD_SHAPE, "on purpose")
        case 3:
            desk.send(Progress(0, 1, 0.0))
            threading.Event().wait()
        case 4:
            print("printed")
            print("warned", file=sys.stderr, flush=True)
            sys.stdout.flush()
        case 5:
            desk._loop._answers.write(b"\xff\xff\xff\xff garbage")
            desk._loop._answers.flush()
        case 6:
            raise ValueError("a bug")
    return EvaluateDone(0, os.getpid())


def decode_step(job: DecodeStep, desk: Desk) -> AnyReply:
    return Decoded(())


if __name__ == "__main__":
    serve({Hello: hello, Learn: learn, Evaluate: evaluate, DecodeStep: decode_step})
