"""A worker as an actor of Ray; only there is this imported, and where actors are made."""

import ray

from experiments.executors.working import Worker


class RayWorker(Worker):
    """A worker that names its node in errors."""

    def __init__(self, order: str, threads: int) -> None:
        super().__init__(order, place=f"on node {ray.util.get_node_ip_address()}: ", threads=threads)
