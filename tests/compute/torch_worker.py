"""A worker with torch, for one test of the pool: it learns on a toy text and says the loss."""

from __future__ import annotations

import os

from compute.io.worker_loop import Desk, serve
from compute.jobs import AnyReply, Evaluate, EvaluateDone, Hello, Progress, Ready


def hello(job: Hello, desk: Desk) -> AnyReply:
    from compute.io.device import choose_device

    return Ready(choose_device(job.device, job.threads), os.getpid())


def evaluate(job: Evaluate, desk: Desk) -> AnyReply:
    import numpy

    from compute.learner import Learner
    from compute.model.config import check_config
    from compute.model.genesis import genesis_weights
    from compute.model.tiling import TileMap
    from protocol.genesis import LearningRule, ModelShape

    shape = ModelShape(258, 1, 16, 2, 2, 16, 1, 16)
    rule = LearningRule(
        4, 4, 5000, 500, 0, 0, 900_000, 950_000, 1, 0, 10**6, 10_000, "a", "a", 0, 0, "a", 1, "a", 1, 0, 1, 1
    )
    learner = Learner(check_config(shape), rule)
    learner.load(genesis_weights(shape, TileMap.from_shape(shape, 1 << 16), bytes(32)))
    text = numpy.frombuffer(b"to be or not to be, that is" * 4, numpy.uint8)[: 4 * 17].reshape(4, 17)
    for step, loss in learner.steps(0, [text] * 4):
        desk.send(Progress(step, 4, loss))
        desk.checkpoint()
    return EvaluateDone(int(loss * 1_000_000), 4 * 4 * 16)


if __name__ == "__main__":
    serve({Hello: hello, Evaluate: evaluate})
