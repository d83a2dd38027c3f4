"""Passes of a model that runs somewhere else, each one request: on a server of NDIF, or in a dry run here.

A request holds the inputs, the hooks with their code, and what they have kept so far; the answer holds the model's
tensors and what the hooks have kept since (see `findings`). Answers are read as data, never as code.
"""

import io
import json
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import torch
import websocket
from nnsight import CONFIG, save
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend
from nnsight.tracing.util import push
from nnsight.util import to_import_path
from torch import Tensor

from headscope.backends.findings import PACKAGES, Container, Watched, containers, plain_output, put_back, rebuilt_output
from headscope.backends.shipping import request
from headscope.backends.traces import Work, generated
from headscope.errors import HeadscopeError, UnsupportedModelError, UsageError

ANSWER = "answer"
"""The one name that a trace saves."""


@dataclass(frozen=True)
class Place:
    """Where the passes of a model run."""

    host: str | None
    """Address of the server; None for a dry run in this process."""
    key: str | None = None
    """What the server lets requests in by."""
    official: bool = False
    """Whether it is NDIF's own server."""

    def backend(self, model: Any) -> Backend:
        """What runs one trace of an nnsight model there."""
        return DryRun(model) if self.host is None else Server(model, self.host, self.key)


def place_of(remote: bool | str) -> Place:
    """The place that `remote=` names: True for NDIF, "local" for a dry run, or a server's address; UsageError else."""
    if remote == "local":
        return Place(None)
    if remote is True:
        key = os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY
        if not key:
            raise UsageError(
                "remote=True sends every pass to NDIF, which needs an API key, and none is set; get one at "
                "https://login.ndif.us and set NDIF_API_KEY, or try the same with remote='local'"
            )
        return Place(CONFIG.API.HOST, key, official=True)
    if isinstance(remote, str) and remote.startswith(("http://", "https://")):
        return Place(remote.rstrip("/"))  # without the key, which is for NDIF alone
    raise UsageError(
        f"remote={remote!r} names no place to run; use True (NDIF), 'local' (a dry run here) or a server's address, such "
        "as 'http://localhost:5001'"
    )


def passed(model: Any, place: Place, inputs: Mapping[str, Any], work: Work, hooks: tuple[Any, ...]) -> Any:
    """One pass of the model, with its edits, in one request; hooks have what they kept when it returns."""
    backend = place.backend(model)
    held = containers(hooks)
    answer = None
    with model.trace(inputs, backend=backend):
        watched = Watched(held)
        work.attempt((), inputs)
        answer = save(answered(model.output, work, watched))
    return _taken(answer, held)


def written(
    model: Any, place: Place, inputs: Mapping[str, Tensor], settings: Mapping[str, Any], work: Work, hooks: tuple
) -> Any:
    """One whole generation in one request; as `passed`."""
    backend = place.backend(model)
    held = containers(hooks)
    answer = None
    # by name where it will do: a server may run hooks in a process of their own, where no model can be called
    run = partial(generated, model) if any(step[-1] for step in work.steps) else "generate"
    with model.trace(fn=run, backend=backend, **settings) as tracer:
        watched = Watched(held)
        with tracer.invoke(inputs):
            for _ in tracer.iter[: settings.get("max_new_tokens")]:
                work.attempt(*model.inputs)
        with tracer.invoke():
            answer = save(answered(tracer.result, work, watched))
    return _taken(answer, held)


def answered(output: Any, work: Work, watched: Watched) -> tuple[Any, Any, Any]:
    """What goes back: the output, an error that a hook raised, and what has changed in the containers of the hooks."""
    if work.failure is not None:
        return None, work.failure, []
    try:
        return plain_output(output), None, watched.changes()
    except UsageError as error:
        return None, (type(error).__name__, str(error)), []


def _taken(answer: Any, held: list[Container]) -> Any:
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise UsageError(
            "the server ended the run without an answer; it may run another version of nnsight: compare them with "
            "nnsight.compare()"
        )
    output, failure, changes = answer
    if failure is not None:
        name, text = failure
        raise (UnsupportedModelError if name == UnsupportedModelError.__name__ else UsageError)(text)
    put_back(held, changes)
    return rebuilt_output(output)


class DryRun(Backend):
    """Does all that a request goes through, on the model in this process: out as bytes, run, and back as bytes.

    nnsight's own dry run reads the bytes back but then runs the objects of this side, in which hooks keep what they see
    as if they had never travelled.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, tracer: Any) -> None:
        """Runs the trace and puts its answer where the caller looks for it."""
        sent = request(tracer, self.model)
        objects = self.model._remoteable_persistent_objects()
        arrived = RequestModel.deserialize(sent, objects, unpickler=_Arriving)
        arrived.execute(arrived.info.code)
        answer = arrived.info.frame.f_locals.get(ANSWER)
        push(tracer.info.frame, {ANSWER: _as_sent_back(answer)})


class _Arriving(CustomCloudUnpickler):
    """Refuses what a server could not import."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in (*PACKAGES, "jaxtyping", "beartype"):
            raise UnsupportedModelError(
                f"the request would import {module}.{name} on the server, which has no headscope; leave out the hook "
                "that uses it, or run it with a model that is loaded here"
            )
        return super().find_class(module, name)


def _as_sent_back(answer: Any) -> Any:
    with io.BytesIO() as file:
        torch.save(answer, file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


_NO_ANSWER = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    pickle.UnpicklingError,
    httpx.HTTPError,
    websocket.WebSocketException,
)
"""How it shows that nobody answers, or somebody who is no server of NDIF's."""


class Server(RemoteBackend):
    """One request to a server; UsageError says what went wrong."""

    def __init__(self, model: Any, host: str, key: str | None) -> None:
        super().__init__(model_key(model), host=host, api_key=key, env=model._remoteable_get_env())
        self.api_key = key or ""
        self.display.enabled = self.display.enabled and sys.stdout.isatty()  # a line a pass, which no pipe wants
        self._model = model

    def __call__(self, tracer: Any = None) -> Any:
        """Sends the trace and waits for its answer."""
        try:
            return super().__call__(tracer)
        except RemoteError as error:
            raise UsageError(_failed(self.host, str(error))) from error
        except _NO_ANSWER as error:
            if isinstance(error, HeadscopeError):
                raise
            raise UsageError(
                f"{self.host} does not answer as a server of NDIF does ({_last_line(str(error) or repr(error))}); see "
                "whether it is up with nnsight.status(), give another address as remote=, or try remote='local'"
            ) from error

    def _serialize(self, tracer: Any) -> bytes:
        sent = request(tracer, self._model)
        if not self.compress:
            return sent
        import zstandard

        return zstandard.ZstdCompressor(level=6).compress(sent)

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        """One message of the server's; nnsight would load it as a pickle, which can run code."""
        if isinstance(message, str):
            return ResponseModel.model_validate_json(message)
        reader = SimpleNamespace(__name__="data only", Unpickler=_Envelope)
        return ResponseModel(**torch.load(io.BytesIO(message), pickle_module=reader, weights_only=False))

    def finalize(self, content: bytes) -> Any:
        """The saved values, as data."""
        if self.compress:
            import zstandard

            content = zstandard.ZstdDecompressor().decompress(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _Envelope(pickle.Unpickler):
    """Reads what is around an answer: text, bytes and a status. torch's own reader of data takes no bytes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (Status.__module__, Status.__name__):
            return Status
        raise UsageError(f"the server's answer names {module}.{name}, which is no data; it is refused")


def _failed(host: str, text: str) -> str:
    reason = _last_line(text)
    if "model" in reason.lower() and any(word in reason.lower() for word in ("not found", "not deployed", "no such")):
        return f"{host} does not serve this model ({reason}); nnsight.status() lists those that it does"
    return f"{host} could not run the request ({reason}); try the same with remote='local', which shows errors whole"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def model_key(model: Any) -> str:
    """The name by which a server knows the model; a folder by its path, which a server of one's own may share."""
    if not Path(model.repo_id).is_dir():
        try:
            return model.to_model_key()
        except (OSError, httpx.HTTPError, ValueError) as error:
            raise UsageError(
                f"{model.repo_id} could not be looked up on the hub ({_last_line(str(error))}), and servers know models "
                "by their names there; give such a name, and see that the hub can be reached"
            ) from error
    named = {"repo_id": str(model.repo_id), "revision": model.revision, "task": model.task}
    return f"{to_import_path(type(model))}:{json.dumps(named)}"
