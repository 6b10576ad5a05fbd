"""Tensors into claims: the model, the learner, evaluation, generation, delta compression and merging.

What this package knows: weights are float32 arrays cut into tiles; a round of learning turns the weights of one version
into a delta; deltas are merged with the same bits on every machine. What it never does: talk to peers, read a clock, or
decide what counts. Files outside `io/` hold no I/O; `io/` alone starts processes, reads files and asks for devices.

The network process imports this package too, so importing it, `compute.model.tiling`, `compute.model.genesis`,
`compute.jobs`, `compute.trainer` or `compute.io.pool` never imports torch; `compute.model.moe`, `compute.learner`,
`compute.evaluation`, `compute.decoding` and `compute.streamed_expert` do, and belong into a worker process.

Reading order: `model/config`, `model/layout`, `model/tiling`, `model/genesis` (what the weights are),
`model/attention`, `model/moe` (what they compute), `data`, `learner`, `evaluation`, `sampling`, `decoding` (what is done with
them), `expert_caller` (whom to ask for an expert), `row_scales`, `streamed_expert` (one that is larger than memory),
`trainer` (what of it a worker needs), `jobs`, `io/pool`, `io/worker_loop` (how the node asks for it).
"""
