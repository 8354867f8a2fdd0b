"""The same model recorded once more, in another mode or on another input size, for rules that compare."""

from __future__ import annotations

from torch import nn

from bnlint.graph.fake import Unfollowable
from bnlint.graph.memory import out_of_memory
from bnlint.graph.model import Graph
from bnlint.graph.names import holds_values
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs import Inputs, resized
from bnlint.rule import Variant


def record_variant(variant: Variant, model: nn.Module, given: Inputs) -> Graph | None:
    """A graph of the variant, on real tensors where fake ones cannot follow; None when the input has no such variant.

    A forward that fails for the variant is a fact: its graph has `runs` False. Raises Unfollowable when the model has
    no values, or no memory is left, for a run on real tensors.
    """
    inputs = _inputs(variant, given)
    if inputs is None:
        return None
    train = model.training and variant is not Variant.EVAL
    try:
        with untouched(model), training_mode(model, train):
            return Graph(record(model, inputs.args, inputs.kwargs, batch_axes=inputs.batch_axes), model)
    except Unfollowable:
        if not holds_values(model):
            raise
    try:
        with untouched(model, values=True), training_mode(model, train):
            return Graph(record(model, inputs.args, inputs.kwargs, fake=False, batch_axes=inputs.batch_axes), model)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise Unfollowable("it needs more memory than there is", None) from error
        raise


def _inputs(variant: Variant, given: Inputs) -> Inputs | None:
    if variant is Variant.EVAL:
        return given
    if variant is Variant.BATCH_OF_ONE:
        return resized(given, batch=1)
    if variant is Variant.LARGER_BATCH:
        return resized(given, batch=given.batch_size + 1)
    return resized(given, scale=1.5)
