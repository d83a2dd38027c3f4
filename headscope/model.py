"""The hooked model: any transformers model whose attention can be read and edited head by head."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headscope.backends import BackendName, opened, served, wrapped
from headscope.check import SelfCheck, check_model
from headscope.costs import Cost, require_memory, statistics_cost
from headscope.encoding import Batch, encode, layout_of, pad_left, tokenizer_of, tokens_of
from headscope.errors import UnsupportedModelError, UsageError
from headscope.flow import Flow, image_tokens
from headscope.generation import Generation, continued
from headscope.heads import Head
from headscope.hooks import Intervention, Reader, Site, Where
from headscope.images.layout import ImageLayout
from headscope.loading import DeviceMap, load_pretrained
from headscope.progress import progress_bar
from headscope.prompting import Hook, Operator, in_force
from headscope.recording import Keep, MassReader, group_places
from headscope.samples import Sample, Tokens, batches
from headscope.sites import ROW_TOLERANCE, AttentionSite, discover
from headscope.statistics import AttentionStatistics, StatisticsReader

_MAIN_STACKS = ("text", "decoder")


@dataclass(frozen=True)
class Output:
    """Logits of a batch, padded on the left."""

    batch: Batch
    logits: Float[Tensor, "sample token vocab"]

    def of_sample(self, index: int) -> Float[Tensor, "token vocab"]:
        """Logits of one sample without padding."""
        return self.logits[index, int(self.batch.padding[index]) :]


class HookedModel:
    """A transformers model with its attention layers found and proved.

    `hf` is used as it is, never changed: outside `hooks(...)` it behaves as if headscope were not there. Its heads are
    those of the main stack (`text`, or `decoder`) unless a stack is named. Not safe for several threads at once.
    """

    def __init__(
        self,
        hf: PreTrainedModel | Any,
        processor: Any = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        example: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`hf` is a transformers model, a TransformerBridge of TransformerLens, or a TransformersModel of nnsight.

        Costs two forward passes of `example` (made up if not given). Raises UnsupportedModelError if no attention
        layer can be hooked, or if one cannot be reproduced from its inputs; UsageError for a model in training mode.
        """
        inside = opened(hf, processor, example)
        hf = inside.hf
        if hf.training:
            raise UsageError(
                "the model is in training mode, and dropout would make every score random; call .eval() first"
            )
        self.hf: Any = hf
        self.processor = inside.processor
        self.name = name or getattr(hf, "name_or_path", "") or type(hf).__name__
        self.revision = revision or getattr(hf.config, "_commit_hash", None)
        self.example = dict(inside.example)
        self.doors = inside.doors
        self.sites = inside.sites or discover(hf, self.example, self.doors)
        self._active: tuple[Hook, ...] = ()
        self._flow = Flow(hf)
        self._installed = ExitStack()
        _refuse_unfaithful(self.sites, hf)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        backend: BackendName = "transformers",
        remote: bool | str = False,
        device_map: DeviceMap | None = None,
    ) -> "HookedModel":
        """A model from a folder, the hub, or the zoo (`zoo:needle`), in eval mode; device is CUDA where there is one.

        `backend` names the library whose model is hooked (see `headscope.backends`): the numbers are the same.
        `device_map` (`"auto"`, or a dictionary of modules) spreads a model that is too large for one device over all
        there are, with accelerate, and stands in the place of `device`. Weights are read from safetensors only unless
        `allow_pickle`. With `backend="nnsight"`, `remote=True` sends every pass to NDIF and loads no weights, an address
        sends them to a server of one's own, and `"local"` is a dry run of the same. Raises UsageError for what does not
        exist.
        """
        name = str(name_or_path)

        def loaded() -> tuple[PreTrainedModel, Any]:
            return load_pretrained(
                name_or_path,
                dtype=dtype,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                device_map=device_map,
            )

        if remote:
            given = {"dtype": dtype != "auto", "device": device, "device_map": device_map, "allow_pickle": allow_pickle}
            chosen = [option for option, value in given.items() if value]
            options = {"revision": revision, "trust_remote_code": trust_remote_code}
            model = served(name, remote, backend, loaded, chosen, **options)
            return cls(model, name=name, revision=revision)
        hf, processor = loaded()
        return cls(wrapped(hf, processor, name, backend), processor, name=name, revision=revision)

    def __repr__(self) -> str:
        stacks = ", ".join(f"{s}: {len(self.layers(s))} x {self.sites_of(s)[0].n_heads} heads" for s in self.stacks)
        return f"HookedModel({self.name!r}, {type(self.hf).__name__}, {stacks})"

    # -- shape -----------------------------------------------------------------------------------------------------

    @property
    def stacks(self) -> tuple[str, ...]:
        """Parts of the model with attention of their own, in the order they run."""
        return tuple(dict.fromkeys(site.stack for site in self.sites))

    @property
    def main_stack(self) -> str:
        """The stack that heads belong to unless another is named."""
        return next((stack for stack in _MAIN_STACKS if stack in self.stacks), self.stacks[0])

    def sites_of(self, stack: str | None = None) -> tuple[AttentionSite, ...]:
        """Attention layers of one stack; UsageError names the stacks there are."""
        stack = stack or self.main_stack
        found = tuple(site for site in self.sites if site.stack == stack)
        if not found:
            raise UsageError(f"{self.name} has no stack {stack!r}; it has {', '.join(self.stacks)}{self.doors.remark}")
        return found

    def layers(self, stack: str | None = None) -> tuple[int, ...]:
        """Numbers of the layers with attention; they leave gaps in models that mix in other layers."""
        return tuple(site.layer for site in self.sites_of(stack))

    def heads(self, stack: str | None = None) -> tuple[Head, ...]:
        """Every head of a stack, layer by layer."""
        return tuple(Head(site.layer, head) for site in self.sites_of(stack) for head in range(site.n_heads))

    @property
    def n_layers(self) -> int:
        """Layers of the main stack, those without attention included."""
        return max(self.layers()) + 1

    @property
    def n_heads(self) -> int:
        """Most query heads in a layer of the main stack."""
        return max(site.n_heads for site in self.sites_of())

    @property
    def n_kv_heads(self) -> int:
        """Most key heads in a layer of the main stack."""
        return max(site.n_kv_heads for site in self.sites_of())

    @property
    def d_head(self) -> int:
        """Width of one head's output in the main stack."""
        return self.sites_of()[0].d_head

    @property
    def d_model(self) -> int:
        """Width of the residual stream of the main stack."""
        return self.hf.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return self.hf.device

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or None."""
        return tokenizer_of(self.processor)

    @property
    def context_length(self) -> int | None:
        """Most tokens the model's positions were made for, where its config says so."""
        return getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)

    @property
    def forward_arguments(self) -> frozenset[str]:
        """Names of the arguments that the model's forward takes."""
        return self._flow.takes

    # -- hooks -----------------------------------------------------------------------------------------------------

    @contextmanager
    def hooks(self, *interventions: Hook) -> Iterator["HookedModel"]:
        """Interventions in force inside the block, in order; an inner block's come after those of the outer.

        Every forward pass is hooked, direct calls of `model.hf(...)` and `model.hf.generate(...)` included. Raises
        UsageError for heads, layers or stacks the model does not have, and for what an operator cannot work on.
        """
        before = self._active
        with self.unhooked():
            prepared = tuple(self._prepared(hook) for hook in interventions)
        try:
            self._install((*before, *prepared))
            yield self
        finally:
            self._install(before)

    @property
    def in_force(self) -> tuple[Hook, ...]:
        """The interventions of the `hooks` blocks that are open, in order."""
        return self._active

    @contextmanager
    def unhooked(self) -> Iterator["HookedModel"]:
        """Inside the block the model runs without any intervention; those around it come back after."""
        before = self._active
        if not before:
            yield self
            return
        try:
            self._install(())
            yield self
        finally:
            self._install(before)

    def _install(self, active: tuple[Hook, ...]) -> None:
        self._installed.close()
        self._active = active
        if active:
            self._installed.enter_context(in_force(self, active, self._flow))

    def _prepared(self, hook: Hook) -> Hook:
        if isinstance(hook, Operator):
            return hook.prepared(self)
        self.validate(hook)
        return hook

    def validate(self, hook: Intervention | Reader) -> None:
        """UsageError if the hook names heads, layers, a stack or a region that the model does not have."""
        if hook.where.region is not None:
            self.require_images(f"{type(hook).__name__} in region {hook.where.region!r}")
        sites = {site.layer: site for site in self.sites_of(hook.where.stack)}
        wrong = [head for head in hook.where.heads or () if not self._has(sites, head)]
        if wrong:
            raise UsageError(
                f"{', '.join(map(str, wrong))} asked for, but {self.name} has layers {min(sites)}-{max(sites)} with "
                f"{max(site.n_heads for site in sites.values())} heads each, counted from 0"
            )
        missing = [layer for layer in hook.where.layers or () if layer not in sites]
        if missing:
            raise UsageError(f"layers {missing} asked for, but {self.name} has attention in layers {sorted(sites)}")

    @property
    def sees_images(self) -> bool:
        """Whether prompts of this model can hold image tokens."""
        return bool(image_tokens(self.hf.config))

    def require_images(self, asked: str) -> None:
        """UsageError if the model takes no images; `asked` says what was wanted of it."""
        if not self.sees_images:
            raise UsageError(
                f"{asked} needs a model with image tokens in its prompt, and {self.name} ({type(self.hf).__name__}) has "
                "none; load a vision-language model, such as zoo:scenes"
            )

    @staticmethod
    def _has(sites: Mapping[int, AttentionSite], head: Head) -> bool:
        return head.layer in sites and 0 <= head.head < sites[head.layer].n_heads

    # -- running ---------------------------------------------------------------------------------------------------

    def tokens(self, sample: Sample | str) -> Tokens:
        """Token ids of a sample and the token spans of its marks."""
        return tokens_of(_as_sample(sample), self.processor)

    def image_layout(self, sample: Sample) -> ImageLayout:
        """Where a sample's image tokens stand and which pixels each shows; errors as for `images.image_layout`."""
        self.require_images("an image layout")
        return layout_of(sample, self.hf.config, self.processor)

    def encode(self, samples: Sequence[Sample | str]) -> Batch:
        """Padded inputs of several samples on the model's device."""
        return encode([_as_sample(sample) for sample in samples], self.processor, self.device)

    @torch.no_grad()
    def forward(self, samples: Sequence[Sample | str], *, last: int | None = None) -> Output:
        """Logits of all samples in one padded pass; only those of the `last` positions if given."""
        batch = self.encode(samples)
        options = {} if last is None else {"logits_to_keep": last}
        return Output(batch, self._run(batch, **options).logits)

    @torch.no_grad()
    def generate(
        self,
        samples: Sample | str | Sequence[Sample | str],
        *,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        batch_tokens: int = 8192,
        progress: bool = False,
        **options: Any,
    ) -> Any:
        """What the model writes after each prompt: a Generation for one sample, a list for several.

        Greedy unless `do_sample=True` is passed on to transformers. Samples are run in batches of at most
        `batch_tokens` padded prompt tokens. Ends at the end-of-text token or once the text holds one of `stop`.
        """
        if isinstance(samples, Sample | str):
            return self.generate([samples], max_new_tokens=max_new_tokens, stop=stop, **options)[0]
        samples = [_as_sample(sample) for sample in samples]
        done: list[Generation | None] = [None] * len(samples)
        with progress_bar(len(samples), "generating", shown=progress) as update:
            for places, chosen in batches(samples, lambda sample: len(self.tokens(sample).ids), batch_tokens):
                answers = self.generate_batch(self.encode(chosen), max_new_tokens=max_new_tokens, stop=stop, **options)
                for place, answer in zip(places, answers, strict=True):
                    done[place] = answer
                update(len(places))
        return done

    def emitting(self, first_column: Tensor | int) -> AbstractContextManager[None]:
        """Inside the block, queries from this column on (one, or one a sample, padding counted) are `decode`.

        For answers that are read instead of generated: their last prompt token chooses the first answer token.
        """
        return self._flow.emitting(first_column)

    @torch.no_grad()
    def generate_batch(
        self, batch: Batch, *, max_new_tokens: int, stop: Sequence[str] = (), **options: Any
    ) -> list[Generation]:
        """Answers to one encoded batch; the last prompt token and what follows are the `decode` queries."""
        first = 0 if self.hf.config.is_encoder_decoder else batch.columns - 1
        with self.emitting(first):
            return continued(self.hf, self.tokenizer, batch, max_new_tokens, stop, **options)

    def _run(self, batch: Batch, **options: Any) -> Any:
        if self.hf.config.is_encoder_decoder:  # the decoder starts as it would when it generates
            start = self.hf.generation_config.decoder_start_token_id
            options["decoder_input_ids"] = torch.full((len(batch.samples), 1), start, device=self.device)
        return self.hf(**batch.inputs, **self.positions_of(batch.inputs["attention_mask"]), **options)

    def positions_of(self, attention_mask: Int[Tensor, "sample token"]) -> dict[str, Tensor]:
        """Explicit positions for padded text, which models with learned positions do not work out by themselves."""
        takes = self.forward_arguments
        if attention_mask.all() or "position_ids" not in takes or "pixel_values" in takes or self._counts_by_itself:
            return {}
        return {"position_ids": (attention_mask.cumsum(1) - 1).clamp_min(0)}

    @property
    def _counts_by_itself(self) -> bool:
        """RoBERTa and its kin number the tokens that are no padding themselves, and not from 0."""
        return any(hasattr(module, "create_position_ids_from_input_ids") for module in self.hf.modules())

    # -- reading ---------------------------------------------------------------------------------------------------

    def record(
        self, samples: Sequence[Sample | str], site: Site, *, where: Where | None = None, batch_tokens: int = 8192
    ) -> list[Float[Tensor, "layer ..."]]:
        """Activations of every sample at one site, padding dropped.

        [layer query head d_head] for `z`, [layer head query key] for `pattern`, else [layer query d_model]. A pattern
        at every query is n x n; `where=Where(positions=...)` asks for some rows, which costs memory for those only.
        """
        return self._collect(samples, lambda _: Keep(site, where or Where()), batch_tokens)

    def attention_rows(
        self,
        samples: Sequence[Sample | str],
        *,
        positions: Sequence[int] = (-1,),
        where: Where | None = None,
        batch_tokens: int = 8192,
    ) -> list[Float[Tensor, "layer head query key"]]:
        """Attention of the queries at `positions` of every sample (the last one by default), never n x n."""
        asked = where or Where()
        asked = Where(asked.heads, asked.layers, asked.phase, tuple(positions), asked.stack)
        return self.record(samples, "pattern", where=asked, batch_tokens=batch_tokens)

    def attention_mass(
        self,
        samples: Sequence[Sample | str],
        groups: Mapping[str, str | Sequence[int]],
        *,
        where: Where | None = None,
        batch_tokens: int = 8192,
    ) -> list[Float[Tensor, "layer head query group"]]:
        """Sum of attention on each group of tokens, for every head and query, in O(n) memory.

        A group is the name of a mark, or places in the sample (negative: from its end). Costs about one more attention
        call a layer.
        """

        def reader(chosen: list[Sample]) -> MassReader:
            located = [self.tokens(sample) for sample in chosen]
            return MassReader(where or Where(), [group_places(groups, t.marks, len(t.ids)) for t in located])

        return self._collect(samples, reader, batch_tokens)

    def attention_statistics(
        self,
        samples: Sequence[Sample | str],
        *,
        groups: Mapping[str, str | Sequence[int]] | None = None,
        distances: bool = False,
        tokens: bool = False,
        rows: bool = True,
        where: Where | None = None,
        batch_tokens: int = 8192,
    ) -> AttentionStatistics:
        """Column mass, entropy, top key and mean distance of all heads at once, exact and in O(n) memory.

        `distances` adds the mass at each distance, `tokens` the scores of repeated tokens, `groups` the mass on groups of
        tokens (as for `attention_mass`); `rows=False` leaves out what is kept of every row. `where` chooses layers, the
        stack, and the queries that sums are taken over. `statistics_cost` says beforehand what it takes. UsageError where
        memory will not do, and for heads in `where`.
        """
        where, groups = where or Where(), groups or {}
        if where.heads is not None:
            raise UsageError(
                "statistics are of all heads of a layer; name layers in where= and choose heads afterwards"
            )
        samples = [_as_sample(sample) for sample in samples]
        if not samples:
            raise UsageError("attention statistics were asked of no samples; give at least one")
        cost = self.statistics_cost(
            samples, groups=groups, distances=distances, tokens=tokens, where=where, batch_tokens=batch_tokens
        )
        if not self.doors.remote:
            require_memory(cost, self.device, "give fewer or shorter samples at once, or fewer layers (where=)")

        def reader(chosen: list[Sample]) -> StatisticsReader:
            located = [self.tokens(sample) for sample in chosen]
            ids = pad_left([one.ids for one in located], self.processor)["input_ids"] if tokens else None
            places = [group_places(groups, one.marks, len(one.ids)) for one in located]
            return StatisticsReader(where, ids, places, distances, rows)

        found = self._collect(samples, reader, batch_tokens)
        sites = [site for site in self.sites_of(where.stack) if where.heads_at(site.layer, site.n_heads)]
        shape = (max(self.layers(where.stack)) + 1, max(site.n_heads for site in self.sites_of(where.stack)))
        meta = {"model": self.name, "revision": self.revision, "stack": where.stack or self.main_stack}
        return AttentionStatistics(tuple(found), tuple(site.layer for site in sites), shape, tuple(groups), meta)

    def statistics_cost(
        self,
        samples: Sequence[Sample | str],
        *,
        groups: Mapping[str, str | Sequence[int]] | None = None,
        distances: bool = False,
        tokens: bool = False,
        where: Where | None = None,
        batch_tokens: int = 8192,
    ) -> Cost:
        """What `attention_statistics` of the same arguments will cost; print it before a long run."""
        where = where or Where()
        sites = [site for site in self.sites_of(where.stack) if where.heads_at(site.layer, site.n_heads)]
        return statistics_cost(
            sites or self.sites_of(where.stack),
            [len(self.tokens(sample).ids) for sample in samples],
            sum(parameter.numel() for parameter in self.hf.parameters()),
            batch_tokens=batch_tokens,
            groups=len(groups or {}),
            distances=distances,
            tokens=tokens,
        )

    @torch.no_grad()
    def _collect(self, samples: Sequence[Sample | str], collector: Any, batch_tokens: int) -> list[Any]:
        samples = [_as_sample(sample) for sample in samples]
        found: list[Any] = [None] * len(samples)
        spared = {"logits_to_keep": 1, "use_cache": False}  # of a long prompt, both take more memory than what is read
        options = {name: value for name, value in spared.items() if name in self.forward_arguments}
        for places, chosen in batches(samples, lambda sample: len(self.tokens(sample).ids), batch_tokens):
            keeper = collector(chosen)
            with self.hooks(keeper):
                self._run(self.encode(chosen), **options)
            for i, place in enumerate(places):
                found[place] = keeper.of_sample(i)
        return found

    # -- proof -----------------------------------------------------------------------------------------------------

    def output_weights(self, layer: int, stack: str | None = None) -> Float[Tensor, "head d_head d_model"]:
        """W_O of one layer, head by head: `z[head] @ W_O[head]` is what the head adds to the sublayer's output."""
        site = next((site for site in self.sites_of(stack) if site.layer == layer), None)
        if site is None or site.projection is None:
            raise UnsupportedModelError(f"{self.name} has no output projection that takes the heads of layer {layer}")
        module = self.hf.get_submodule(site.projection)
        with align_module_device(module):  # a weight that is kept elsewhere is fetched
            if module.weight.is_meta:
                raise UnsupportedModelError(
                    f"the weights of {self.name} are on a server, so its output projections cannot be read; load the "
                    "model without remote="
                )
            weight = module.weight if isinstance(module, Conv1D) else module.weight.T
            return weight.reshape(site.n_heads, site.d_head, -1)

    def output_bias(self, layer: int, stack: str | None = None) -> Float[Tensor, " d_model"] | None:
        """The bias of W_O in one layer, which is no head's; None without one."""
        site = next(site for site in self.sites_of(stack) if site.layer == layer)
        if site.projection is None:
            return None
        self.output_weights(layer, stack)  # or what stands in their way
        return self.hf.get_submodule(site.projection).bias

    def check(self) -> SelfCheck:
        """Proves on this model that hooks see and change what they claim; see `headscope.check`."""
        return check_model(self)


def _as_sample(sample: Sample | str) -> Sample:
    return Sample(sample) if isinstance(sample, str) else sample


def _refuse_unfaithful(sites: Sequence[AttentionSite], hf: nn.Module) -> None:
    wide = hf.dtype in (torch.float32, torch.float64)
    for site in sites:
        if site.rows_error > (ROW_TOLERANCE if wide else 0.1):
            raise UnsupportedModelError(
                f"{site.stack} layer {site.layer} ({site.name}, {type(hf).__name__}) computes attention in a way that "
                f"could not be reproduced: rows times values differ from its own output by {site.rows_error:.1e} of the "
                "largest entry; its patterns would be wrong, so the model is refused. Please report the model type"
            )
