"""Runs the probe as the audit does."""

from __future__ import annotations

from typing import Any

from torch import nn

from bnlint.graph.fake import Unfollowable
from bnlint.graph.model import Graph
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.values import Inputs
from bnlint.signal.probe import ProbeFacts, probe


def run(model: nn.Module, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> ProbeFacts:
    kwargs = kwargs or {}
    with untouched(model, values=True), training_mode(model, True):
        try:
            with untouched(model):
                recording = record(model, args, kwargs)
        except Unfollowable:
            with untouched(model, values=True):
                recording = record(model, args, kwargs, fake=False)
        graph = Graph(recording, model)
        return probe(model, Inputs(args, kwargs), graph, **options)
