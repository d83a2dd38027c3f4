"""Where the attention layers of a model are whose weights are somewhere else, found on a narrow copy.

The copy has the same config but for widths: as many layers and heads, heads of the same size, and few numbers in between.
It has random weights and runs here, so that its layers are found and proved as any model's are. What was found is then
held against the model itself, which is there without weights: the modules must have the same names, and each output
projection must take as many numbers as the copy's.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headscope.backends.doors import TorchDoors
from headscope.costs import Cost, require_memory
from headscope.errors import HeadscopeError, UnsupportedModelError
from headscope.flow import image_tokens
from headscope.sites import AttentionSite, discover

_INNER = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "dim_feedforward",
)
_EXPERTS = ("num_local_experts", "num_experts")
_FOLLOWS = ("out_hidden_size", "projection_dim", "text_hidden_size")
"""Widths elsewhere in a config that must equal the text's."""

_WIDTH, _WORDS = 32, 256

_CANNOT = (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError, HeadscopeError)
"""What a model of other widths than it was made for may fail with."""


def found_on_copy(
    hf: PreTrainedModel, inputs: Callable[[PreTrainedModel], Mapping[str, Tensor]]
) -> tuple[PreTrainedModel, Mapping[str, Tensor], tuple[AttentionSite, ...]]:
    """The copy, inputs that it takes, and its attention layers; UnsupportedModelError where it is not like the model.

    `inputs` makes inputs for a model. Costs the memory of a model with few numbers a token, or, where heads cannot keep
    their size in a narrow stream (GPT-2), with the model's own stream and little else.
    """
    reasons = []
    for narrow_stream in (True, False):
        try:
            made = _copy(hf, narrow_stream=narrow_stream)
            example = inputs(made)
            sites = discover(made, example, TorchDoors())
        except _CANNOT as error:
            reasons.append(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
            continue
        reason = next(_differences(sites, hf), None)
        if reason is None:
            return made, example, sites
        reasons.append(reason)
    raise UnsupportedModelError(
        f"the attention layers of {type(hf).__name__} cannot be found without its weights: a narrow copy is not like "
        f"it ({'; '.join(dict.fromkeys(reasons))}); load the model here, or use one whose copy is"
    )


def _differences(sites: tuple[AttentionSite, ...], hf: nn.Module) -> Iterator[str]:
    modules = dict(hf.named_modules())
    for site in sites:
        names = (site.name, site.projection, site.block, site.mid, site.mlp)
        yield from (f"the model has no {name}" for name in names if name is not None and name not in modules)
        if site.projection is None:
            yield f"no output projection was found in {site.name}"
            continue
        width, expected = _takes(modules.get(site.projection)), site.n_heads * site.d_head
        if width != expected:
            yield f"{site.projection} takes {width} numbers a token in the model and {expected} in the copy"


def _takes(module: nn.Module | None) -> int | None:
    if isinstance(module, Conv1D):
        return module.weight.shape[0]
    return getattr(module, "in_features", None)


def _copy(hf: PreTrainedModel, *, narrow_stream: bool) -> PreTrainedModel:
    config = copy.deepcopy(hf.config)
    config.dtype = torch.float32
    parts = list(_parts(config))
    text = config.get_text_config()
    if narrow_stream:
        _narrow_stream(text, parts)
    for part in parts:
        _narrow_inside(part)
    if not image_tokens(config):  # else the processor's words would be unknown
        _few_words(text)
    build = partial(type(hf)._from_config, attn_implementation=hf.config._attn_implementation)
    with torch.device("meta"):
        numbers = sum(weight.numel() for weight in build(copy.deepcopy(config)).parameters())
    require_memory(Cost(1.0, 4 * numbers), torch.device("cpu"), "find the layers on a machine with more memory")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build(config)
        _redraw(made)
    return made.float().eval()


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """The config and those inside it."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)


def _narrow_stream(text: PretrainedConfig, parts: list[PretrainedConfig]) -> None:
    width, heads = text.hidden_size, text.num_attention_heads
    size = getattr(text, "head_dim", None) or width // heads
    narrow = heads * max(2, _WIDTH // heads)
    if narrow >= width:
        return
    text.head_dim, text.hidden_size = size, narrow
    for part in parts:
        for name in _FOLLOWS:
            if getattr(part, name, None) == width:
                setattr(part, name, narrow)


def _narrow_inside(part: PretrainedConfig) -> None:
    for name in _INNER:
        if hasattr(part, name):
            before = getattr(part, name)
            setattr(
                part, name, _WIDTH if before is None else min(_WIDTH, before) if isinstance(before, int) else before
            )
    for name in _EXPERTS:
        count = getattr(part, name, None)
        chosen = getattr(part, "num_experts_per_tok", None)
        if isinstance(count, int) and isinstance(chosen, int):
            setattr(part, name, min(count, max(4, chosen)))


def _few_words(text: PretrainedConfig) -> None:
    text.vocab_size = min(text.vocab_size, _WORDS)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(text, name, None)
        if isinstance(token, int) and token >= text.vocab_size:
            setattr(text, name, None)


def _redraw(model: nn.Module) -> None:
    """Weights that let every part of a layer be seen in its sum; initial ones leave attention and MLP near nothing."""
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, 0, weight[0].numel() ** -0.5)
