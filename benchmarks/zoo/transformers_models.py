"""Every architecture of transformers with a small random configuration: `transformers_models.py:make('bert')`."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

if importlib.util.find_spec("torchvision"):  # transformers imports it when it is there
    from torchvision_models import torchvision  # noqa: F401

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers_inputs import why_not

Size = Callable[[PreTrainedConfig, str, int], int]

LARGEST = 350_000_000  # parameters
PATIENCE = 30.0  # seconds of processor time, after which the first configuration that builds must do
_TASKS = (  # the first that knows the architecture gives the class
    *("SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MASKED_LM", "CAUSAL_LM", "CTC"),
    *("VIDEO_CLASSIFICATION", "SEMANTIC_SEGMENTATION", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION"),
    *("OBJECT_DETECTION", "DEPTH_ESTIMATION", "TIME_SERIES_PREDICTION", "ZERO_SHOT_OBJECT_DETECTION"),
)
_LAYERS = r"num_(hidden_)?layers|n_layers?|(num_|n_)?(encoder|decoder|\w+_encoder|\w+_decoder)_layers|depth"
_DEPTHS = {  # fields of a configuration by their names; a field is never made larger
    _LAYERS: 2,
    r"\w*vocab_size(_\w+)?": 512,
    r"(num_|n_)(local_|routed_)?experts": 4,
    r"num_experts_per_tok|top_?k_experts|moe_top_?k|num_experts_per_token": 2,
    r"n_group|num_expert_groups?": 2,
    r"topk_group": 1,
    r"image_size|img_size": 224,
    r"max_position_embeddings|max_sequence_length": 4096,
    r"num_kv_shared_layers|num_nextn_predict_layers": 0,
}
_WIDTHS = {
    r"(num_|n_)?(\w+_)?(heads|head)": 4,
    r"(num_|n_)(key_value_|kv_)heads?|num_key_value_heads": 2,
    r"(\w+_)?(hidden_size|hidden_dim|d_model|n_embd|embed_dim|embedding_size|projection_dim|emb_dim)|dim": 64,
    r"(\w+_)?(head_dim|d_kv|d_head|head_size)": 16,
    r"(\w+_)?(intermediate_size|ffn_dim|d_ff|n_inner|d_inner|mlp_dim|ffn_hidden_size|feed_forward_size)": 128,
    r"upsample_groups|d_latents": 64,
    r"num_latents|mamba_d_head|num_filters": 32,
}
_HEADS = r"(num_|n_)?(attention_|\w+_attention_)?(heads|head)"
_MISSING = {
    "vocab_size": 512,
    "head_dim": 16,
    "image_token_id": 511,
    "image_token_index": 511,
    "video_token_index": 510,
}
_MORE: dict[str, dict[str, Any]] = {  # what the default configuration leaves out, or what two fields must agree on
    **{name: {"prediction_length": 8} for name in ("autoformer", "informer", "time_series_transformer")},
    **{name: {"out_indices": [3, 5, 7, 11]} for name in ("beit", "data2vec-vision")},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 32},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 16}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "superglue": {"hidden_size": 256, "keypoint_encoder_sizes": [32, 64]},
    "timesfm2_5": {"context_length": 1024},
}


def names() -> list[str]:
    """The architectures that have a model of their own; parts of others are left out."""
    known = {name for names in _classes() for name in names}
    return [name for name in CONFIG_MAPPING if name in known]


def make(name: str) -> nn.Module:
    """The architecture with the smallest configuration that runs, else that builds; random weights."""
    return _made(name)[0]


def inputs(name: str) -> dict[str, Tensor]:
    """What its configuration implies that it takes."""
    return _made(name)[1]


@cache
def _made(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    cls, built, started = class_of(name), [], time.process_time()
    reason: Exception = ValueError(f"{name} has more than {LARGEST} parameters")
    for config in _configurations(name):
        found = _built(cls, config)
        if isinstance(found, nn.Module):
            given, error = why_not(found)
            if error is None:
                return found, given
            built.append((found, given))
            if time.process_time() - started > PATIENCE:
                break
        else:
            reason = found or reason
    if built:
        return built[0]
    raise reason


def _built(cls: type[PreTrainedModel], config: Callable[[], PreTrainedConfig]) -> nn.Module | Exception | None:
    """The model; what it raises; None when it is too large."""
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in cls(config()).parameters())
        torch.manual_seed(0)
        return cls(config()) if size <= LARGEST else None
    except Exception as error:
        return error


def class_of(name: str) -> type[PreTrainedModel]:
    """The model class of an architecture: of the first task that knows it, else the bare model."""
    for names in _classes():
        found = names.get(name)
        cls = getattr(transformers, found[0] if isinstance(found, tuple) else found or "", None)
        if cls is not None and _is_whole(cls, CONFIG_MAPPING[name]):
            return cls
    raise LookupError(f"transformers has no model for {name}")


def _classes() -> list[Mapping[str, str | tuple[str, ...]]]:
    """Architecture to class, for every task in order."""
    tasks = (*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in _TASKS), "MODEL_MAPPING_NAMES", *dir(modeling_auto))
    return [vars(modeling_auto)[name] for name in tasks if re.fullmatch("MODEL_.*MAPPING_NAMES", name)]


def _is_whole(cls: type[PreTrainedModel], config: type[PreTrainedConfig]) -> bool:
    """False for a model of a part of the configuration, the text decoder of a multimodal model say."""
    try:
        return cls.config_class is config
    except ImportError:  # of a package that the architecture needs: building it says so
        return True


def _configurations(name: str) -> Iterator[Callable[[], PreTrainedConfig]]:
    """Narrow and shallow; fewer heads of the same size; narrow alone; shallow alone; as it comes."""
    cls, more = CONFIG_MAPPING[name], _MORE.get(name, {})
    for size in (_narrow, _fewer_heads, _slim, _shallow):
        yield lambda size=size: _shrunk(cls(), size, **more)
    yield lambda: cls(**more)


def _narrow(config: PreTrainedConfig, name: str, value: int) -> int:
    return min(value, _limit({**_DEPTHS, **_WIDTHS}, name, value))


def _fewer_heads(config: PreTrainedConfig, name: str, value: int) -> int:
    """Widths divided by what makes four heads, so that the size of a head and all that is derived from it stays."""
    fields = vars(config)
    heads = next((v for k, v in fields.items() if re.fullmatch(_HEADS, k) and isinstance(v, int)), 4)
    limit, factor = _limit(_DEPTHS, name, value), max(1, heads // 4)
    if limit < value or "head_dim" in name or _limit(_WIDTHS, name, -1) == -1:
        return min(limit, value)
    return value // factor if value % factor == 0 else min(value, 2 if "kv" in name or "key_value" in name else value)


def _slim(config: PreTrainedConfig, name: str, value: int) -> int:
    """All its layers: some are named by their numbers."""
    return value if re.fullmatch(_LAYERS, name) else _narrow(config, name, value)


def _shallow(config: PreTrainedConfig, name: str, value: int) -> int:
    return min(value, _limit(_DEPTHS, name, value))


def _limit(limits: dict[str, int], name: str, default: int) -> int:
    return next((size for words, size in limits.items() if re.fullmatch(words, name)), default)


def _shrunk(config: PreTrainedConfig, size: Size, **more: Any) -> PreTrainedConfig:
    """A configuration made anew with smaller numbers, so that what it derives from them is derived again."""
    usual = vars(type(config)())
    changes = {k: v for k, v in vars(config).items() if v != usual.get(k) and not k.startswith("_")}
    depths: dict[int, list[str]] = {}  # number of layers to the fields that say it
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            changes[name] = _shrunk(value, size)
        elif isinstance(value, int) and not isinstance(value, bool):
            smaller = size(config, name, value)
            per_stage = name == "embed_dim" and isinstance(vars(config).get("num_heads"), (list, tuple))
            if smaller < value and not per_stage:
                changes[name] = smaller
                if "layer" in name:
                    depths.setdefault(value, []).append(name)
        elif value is None and name in _MISSING and size is _narrow:
            changes[name] = _MISSING[name]
    for name, value in vars(config).items():  # a list with an item for every layer
        if isinstance(value, (list, tuple)) and len(value) in depths and re.search("layer|block_type", name):
            kinds = list(dict.fromkeys(map(str, value)))
            changes[name] = (
                [next(v for v in value if str(v) == kind) for kind in kinds] if len(kinds) > 1 else value[:2]
            )
            changes |= {depth: len(changes[name]) for depth in depths[len(value)]}
    for name in changes.keys() & more.keys():
        if isinstance(changes[name], PreTrainedConfig):
            more[name] = type(changes[name])(**{**changes[name].to_diff_dict(), **more[name]})
    changes |= _token_ids(config, changes.get("vocab_size"))
    return type(config)(**{**changes, **more})


def _token_ids(config: PreTrainedConfig, vocabulary: int | None) -> dict[str, int]:
    """Other numbers for the special tokens that a smaller vocabulary lacks."""
    if not vocabulary:
        return {}
    found = {k: v for k, v in vars(config).items() if re.search("token_(id|index)$", k) and isinstance(v, int)}
    return {name: vocabulary - 1 - i for i, (name, v) in enumerate(found.items()) if v >= vocabulary}
