"""What an fx node does, in one vocabulary for layers, functions, methods and operators."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn


class Kind(enum.Enum):
    """The families of ops that rules distinguish."""

    INPUT = "input"
    CONSTANT = "constant"  # a parameter, buffer or plain tensor used directly
    CONV = "conv"
    CONV_TRANSPOSE = "transposed conv"
    LINEAR = "linear"
    BILINEAR = "bilinear"
    EMBEDDING = "embedding"
    RNN = "rnn"
    ATTENTION = "attention"
    TRANSFORMER = "transformer"
    NORM = "norm"
    ACTIVATION = "activation"
    SOFTMAX = "softmax"
    DROPOUT = "dropout"
    POOL = "pool"
    RESIZE = "resize"  # interpolate, upsample
    PAD = "pad"
    SHUFFLE = "shuffle"  # pixel shuffle, fold, unfold
    RESHAPE = "reshape"
    PERMUTE = "permute"
    INDEX = "index"
    EXPAND = "expand"
    CAT = "cat"
    STACK = "stack"
    SPLIT = "split"
    ADD = "add"
    MUL = "mul"
    MATMUL = "matmul"
    REDUCE = "reduce"
    SAME = "same"  # identity, contiguous, dtype and device moves, detach
    ELEMENTWISE = "elementwise"
    FACTORY = "factory"  # zeros, arange, randn
    OUTPUT = "output"
    OTHER = "other"


WEIGHT_LAYERS = frozenset((Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR, Kind.BILINEAR))
LAYERS = WEIGHT_LAYERS | {Kind.RNN, Kind.ATTENTION, Kind.TRANSFORMER}
SHAPE_ONLY = frozenset((Kind.SAME, Kind.RESHAPE, Kind.PERMUTE, Kind.EXPAND))
LINEAR_OPS = SHAPE_ONLY | {Kind.NORM, Kind.DROPOUT, Kind.POOL, Kind.PAD, Kind.RESIZE}
SAME_LAYOUT = frozenset((Kind.SAME, Kind.NORM, Kind.DROPOUT, Kind.POOL, Kind.PAD, Kind.RESIZE, Kind.ACTIVATION)) | {
    *(Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.CAT, Kind.SOFTMAX)
}

_CLASSES: tuple[tuple[tuple[type, ...], Kind], ...] = (
    ((nn.modules.conv._ConvTransposeNd,), Kind.CONV_TRANSPOSE),
    ((nn.modules.conv._ConvNd,), Kind.CONV),
    ((nn.Linear,), Kind.LINEAR),
    ((nn.Bilinear,), Kind.BILINEAR),
    ((nn.Embedding, nn.EmbeddingBag), Kind.EMBEDDING),
    ((nn.RNNBase, nn.RNNCellBase), Kind.RNN),
    ((nn.MultiheadAttention,), Kind.ATTENTION),
    ((nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder), Kind.TRANSFORMER),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), Kind.TRANSFORMER),
    (
        (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
        + ((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
        Kind.NORM,
    ),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin), Kind.SOFTMAX),
    ((nn.modules.dropout._DropoutNd,), Kind.DROPOUT),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._LPPoolNd), Kind.POOL),
    ((nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd), Kind.POOL),
    ((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), Kind.POOL),
    ((nn.Upsample,), Kind.RESIZE),
    ((nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd), Kind.PAD),
    ((nn.modules.padding._ReplicationPadNd, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), Kind.PAD),
    ((nn.PixelShuffle, nn.PixelUnshuffle, nn.Fold, nn.Unfold, nn.ChannelShuffle), Kind.SHUFFLE),
    ((nn.Flatten, nn.Unflatten), Kind.RESHAPE),
    ((nn.Identity,), Kind.SAME),
)

_ACTIVATIONS = (
    "relu relu6 rrelu leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink "
    "sigmoid tanh softplus softsign softshrink tanhshrink logsigmoid threshold glu erf clamp clip sin cos exp log "
    "sqrt rsqrt square pow abs log1p expm1 sign reciprocal clamp_min clamp_max"
)
NONLINEAR = frozenset(_ACTIVATIONS.split())

_NAMES: dict[Kind, str] = {
    Kind.CONV: "conv1d conv2d conv3d",
    Kind.CONV_TRANSPOSE: "conv_transpose1d conv_transpose2d conv_transpose3d",
    Kind.LINEAR: "linear",
    Kind.BILINEAR: "bilinear",
    Kind.EMBEDDING: "embedding embedding_bag",
    Kind.ATTENTION: "scaled_dot_product_attention multi_head_attention_forward",
    Kind.NORM: "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm",
    Kind.ACTIVATION: _ACTIVATIONS,
    Kind.SOFTMAX: "softmax log_softmax softmin gumbel_softmax",
    Kind.DROPOUT: "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout",
    Kind.POOL: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d "
    "lp_pool2d lp_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices",
    Kind.RESIZE: "interpolate upsample upsample_bilinear upsample_nearest grid_sample",
    Kind.PAD: "pad",
    Kind.SHUFFLE: "pixel_shuffle pixel_unshuffle fold unfold channel_shuffle",
    Kind.RESHAPE: "view reshape flatten unflatten view_as reshape_as ravel",
    Kind.PERMUTE: "permute transpose t swapaxes swapdims movedim moveaxis adjoint T mT H mH",
    Kind.INDEX: "getitem select narrow index_select squeeze unsqueeze gather take_along_dim setitem flip roll "
    "diagonal masked_select",
    Kind.EXPAND: "expand expand_as repeat tile repeat_interleave broadcast_to",
    Kind.CAT: "cat concat concatenate hstack vstack",
    Kind.STACK: "stack",
    Kind.SPLIT: "split chunk unbind tensor_split split_with_sizes hsplit vsplit unsafe_chunk unsafe_split",
    Kind.ADD: "add sub rsub addcmul addcdiv lerp",
    Kind.MUL: "mul div truediv true_divide multiply divide floor_divide",
    Kind.MATMUL: "matmul bmm mm mv einsum baddbmm addmm addbmm tensordot outer dot inner",
    Kind.REDUCE: "mean sum max min amax amin var std prod norm logsumexp argmax argmin median all any nanmean var_mean "
    "std_mean count_nonzero vector_norm",
    Kind.SAME: "contiguous to type type_as float half double bfloat16 long int bool clone detach cuda cpu data real "
    "alias view_write requires_grad_ positive nan_to_num",
    Kind.FACTORY: "zeros ones empty full arange linspace eye rand randn randint zeros_like ones_like empty_like "
    "full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full new_tensor tensor as_tensor "
    "normal bernoulli randperm tril_indices triu_indices meshgrid from_numpy hann_window",
    Kind.ELEMENTWISE: "neg eq ne lt le gt ge logical_and logical_or logical_not maximum minimum where masked_fill "
    "bitwise_and bitwise_or remainder fmod round floor ceil tril triu softmax_backward isnan isinf isfinite "
    "cumsum cumprod normalize fill zero copy index_fill index_add index_copy scatter scatter_add masked_scatter "
    "dropout_ exp2 atan2 atan bucketize clamp_ nan_to_num and or xor invert not",
}

_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_AUGMENTED = {"iadd", "isub", "imul", "itruediv", "radd", "rmul", "rtruediv", "rmatmul", "imatmul", "rpow", "ipow"}


def op_name(node: fx.Node) -> str:
    """The op's plain name: `add` for `+`, `+=`, `add_`, `Tensor.add`, `torch.add`; a layer's class name for a layer."""
    if node.op in ("placeholder", "output", "get_attr"):
        return node.op
    if node.op == "call_module":
        return str(node.meta.get("class", node.target))
    if node.target is getattr:
        return str(node.args[1])
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return _plain(str(target))


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    name = name.strip("_")
    return name[1:] if name in _AUGMENTED else name.removesuffix("_jit")


def kind_of(node: fx.Node, module: nn.Module | None) -> Kind:
    """The node's family; `module` is the layer of a `call_module` node."""
    if node.op == "placeholder":
        return Kind.INPUT
    if node.op == "get_attr":
        return Kind.CONSTANT
    if node.op == "output":
        return Kind.OUTPUT
    if module is not None:
        return module_kind(module)
    return _BY_NAME.get(op_name(node), Kind.OTHER)


def module_kind(module: nn.Module) -> Kind:
    """The family of a layer."""
    cls: Any = type(module)
    return _class_kind(cls)


@lru_cache(maxsize=1024)
def _class_kind(cls: Any) -> Kind:
    for classes, kind in _CLASSES:
        if issubclass(cls, classes):
            return kind
    if cls.__module__.startswith("torch.nn.modules.activation"):
        return Kind.ACTIVATION
    return Kind.OTHER


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """A call's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def upstream(node: fx.Node) -> Iterator[fx.Node]:
    """The node and everything its value is computed from."""
    todo, seen = [node], {node}
    while todo:
        here = todo.pop()
        yield here
        fresh = [source for source in here.all_input_nodes if source not in seen]
        seen.update(fresh)
        todo += fresh


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node whose value is one tensor."""
    value = node.meta.get("val")
    return tuple(int(s) for s in value.shape) if isinstance(value, torch.Tensor) else None
