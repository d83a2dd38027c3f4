"""A connection to a Ray cluster that is there, or a small one of one's own, closed to other machines."""

import importlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from headscope.errors import UsageError

_REACHED, _ANSWERED = 5.0, 10.0
"""Seconds that a machine has to take a call, and a cluster to let this process in."""
_STORE = 2**28
"""Bytes of a cluster of one's own for tables on their way; they are small."""
_QUIET: Mapping[str, Any] = {"log_to_driver": False, "configure_logging": False}
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
_CLOSED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's switch for clusters of one machine, as on macOS and Windows: everything listens on the loopback alone."""

_PROBE = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
"""


@dataclass(frozen=True)
class Room:
    """What there will be: workers, GPUs of each, and threads of each."""

    workers: int
    num_gpus: float
    threads: int


@contextmanager
def connected(*, address: str | None, workers: int | None, num_gpus: float | None) -> Iterator[tuple[Any, Room]]:
    """Ray, connected inside the block, and the room for workers there; a cluster of one's own ends with the block.

    Nothing is reported to anybody, and a cluster of one's own has no dashboard and listens on this machine alone.
    UsageError where Ray is not installed, for an address that does not answer within 15 seconds, and where not one worker
    has room.
    """
    if num_gpus is not None and num_gpus > 1 and num_gpus != int(num_gpus):
        raise UsageError(f"--num-gpus {num_gpus:g}: a worker has a whole number of GPUs, or a part of one such as 0.5")
    with _environment(_ENVIRONMENT | (_CLOSED if address is None else {})):
        ray = _imported()
        if ray.is_initialized():
            raise UsageError("this process is connected to a Ray cluster already; call ray.shutdown() first")
        logging.getLogger("ray").setLevel(logging.ERROR)
        if address is not None:
            _refuse_silent(address)
        try:
            if address is None:
                _start_own(ray, workers or torch.cuda.device_count() or 2)
            else:
                ray.init(address=address, **_QUIET)
            yield ray, _room(ray, address is None, workers, num_gpus)
        finally:
            ray.shutdown()


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--executor ray needs Ray, which is not installed: pip install 'headscope[ray]'") from error


def _start_own(ray: Any, workers: int) -> None:
    ray.init(address="local", num_cpus=workers, object_store_memory=_STORE, include_dashboard=False, **_QUIET)
    if (at := ray.nodes()[0]["NodeManagerAddress"]) not in ("127.0.0.1", "::1"):
        raise UsageError(
            f"Ray was imported before it could be told to keep to this machine (it listens on {at}); start a cluster "
            "with `ray start --head`, and give its address"
        )


def _refuse_silent(address: str) -> None:
    """UsageError for an address at which no cluster lets a process in: Ray itself tries for minutes, then ends it."""
    told = f"no Ray cluster answers at {address}"
    then = "start one with `ray start --head`, give its HOST:PORT (port 6379 unless another was chosen), or leave out"
    if address != "auto":
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdigit()) or "/" in host:
            raise UsageError(f"--ray-address {address!r} is not of the form HOST:PORT; write for example 10.0.0.1:6379")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACHED).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"{told} ({error}); {then} --ray-address") from error
    try:
        tried = [sys.executable, "-c", _PROBE, address]
        found = subprocess.run(tried, capture_output=True, text=True, timeout=_ANSWERED, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{told} within {_ANSWERED:.0f} s; {then} --ray-address") from error
    if found.returncode:
        why = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"{told} ({why}); {then} --ray-address")


def _room(ray: Any, own: bool, workers: int | None, num_gpus: float | None) -> Room:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = num_gpus if num_gpus is not None else float(any(node.get("GPU") for node in nodes))
    slots = [_slots(node, gpus) for node in nodes]
    if not any(slots):
        raise UsageError(
            f"no node of the Ray cluster has room for a worker of 1 CPU and {gpus:g} GPUs (its {len(nodes)} nodes have "
            f"{', '.join(_said(node) for node in nodes)}); give another --num-gpus, or add a node"
        )
    count = workers or (sum(slots) if gpus or own else sum(map(bool, slots)))
    if count > sum(slots):
        logging.getLogger(__name__).warning(
            "warning: %d workers are asked for, and the cluster has room for %d; the others wait for more nodes",
            count,
            sum(slots),
        )
    return Room(count, gpus, max(1, torch.get_num_threads() // count) if own else 1)


def _slots(node: Mapping[str, float], num_gpus: float) -> int:
    """Workers that a node has room for, were it empty."""
    cpus = int(node.get("CPU", 0))
    return min(cpus, int(node.get("GPU", 0) / num_gpus + 1e-9)) if num_gpus else cpus


def _said(node: Mapping[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that Ray reads, inside the block; those that the user has set stay."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
