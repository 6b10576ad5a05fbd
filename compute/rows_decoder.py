"""A decoder as jobs drive it, between a worker process and its node: rows for experts elsewhere go and come as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from compute.decoding import Decoded as Chosen
from compute.decoding import Decoder, ExpertRows, Step, drive
from compute.jobs import NO_TOKEN, BeginAnswer, Decoded, DecodedToken, ExpertPart, RowsWanted
from compute.model.expert import ROW_TYPE
from compute.model.moe import TRUNK_ALONE, MoEModel, check_held
from compute.sampling import Sampling
from protocol.rejection import Reason, Rejected


class RowsDecoder:
    """`compute.decoding.Decoder`: one call of `step` for a token, and before it one for each layer of a trunk alone."""

    def __init__(self, model: MoEModel) -> None:
        self._decoder = Decoder(model)
        self._is_trunk = model.held == check_held(model.config, TRUNK_ALONE)
        self._width = model.config.width
        self._step: Step | None = None
        self._wanted: ExpertRows | None = None

    def begin(self, job: BeginAnswer) -> None:
        sampling = Sampling(job.max_tokens, job.temperature, job.top_k, job.seed, frozenset(job.stop_tokens), job.top_p)
        if job.name in self._decoder:
            raise Rejected(Reason.BAD_ARGUMENT, f"an answer called {job.name!r} is under way")
        self._decoder.add(job.name, job.prompt, sampling, job.given)

    def end(self, name: str) -> None:
        self._decoder.remove(name)

    def step(self, outputs: Sequence[ExpertPart]) -> RowsWanted | Decoded:
        """One layer or token further; see `compute.jobs.DecodeStep`. Raises Rejected(BAD_SHAPE)."""
        given = self._check(outputs)
        if not self._is_trunk:
            return _decoded(drive(self._decoder.step(), self._decoder.model))
        try:
            if self._step is None:
                self._step = self._decoder.step()
                self._wanted = next(self._step)
            else:
                self._wanted = self._step.send(given)
        except StopIteration as end:
            self._step = self._wanted = None
            return _decoded(end.value)
        parts = tuple(
            ExpertPart(expert, rows_PD.cpu().numpy().astype(ROW_TYPE, copy=False).tobytes())
            for expert, rows_PD in self._wanted.rows.items()
        )
        return RowsWanted(self._wanted.layer, parts)

    def _check(self, outputs: Sequence[ExpertPart]) -> dict[int, torch.Tensor]:
        """The outputs of exactly the rows that are wanted. Raises Rejected(BAD_SHAPE)."""
        rows = {} if self._wanted is None else self._wanted.rows
        sizes = [(expert, ROW_TYPE.itemsize * rows_PD.numel()) for expert, rows_PD in rows.items()]
        if sorted((part.expert, len(part.rows)) for part in outputs) != sizes:
            raise Rejected(Reason.BAD_SHAPE, f"rows of experts {[part.expert for part in outputs]} for {list(rows)}")
        return {
            part.expert: torch.from_numpy(numpy.frombuffer(part.rows, ROW_TYPE).reshape(-1, self._width).copy())
            for part in outputs
        }


def _decoded(chosen: Sequence[Chosen]) -> Decoded:
    return Decoded(
        tuple(
            DecodedToken(each.name, NO_TOKEN if each.token is None else each.token, each.ends, each.margin)
            for each in chosen
        )
    )
