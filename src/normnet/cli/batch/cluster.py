"""Workers in a Ray cluster, which is there already: one actor per GPU, or per node without GPUs.

Ray starts the actors where there is room, and notices when one is lost with its node. Its usage
statistics are off. All nodes must see the same files by the same paths, but for remote ones.

Error ids: NN-RES-008 the cluster cannot be reached or starts no worker, NN-OUT-025 a node does not
see a folder.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from normnet.cli.batch.jobs import Job, Run
from normnet.cli.batch.queue import Ended
from normnet.cli.batch.worker import DistantWorker, Outcome
from normnet.errors import NormNetError, OutputError, ResourceError

POLL_S = 1.0  # so often signals are looked for
KNOCK_S = 10.0  # for the cluster to answer
MAX_LOST = 3  # starts per worker that may fail one after the other


class Cluster:
    """Workers in a Ray cluster.

    Args:
        run: What the scans share.
        address: Of the cluster; ``auto``: the one that this machine belongs to.
        n_workers: How many; None: one per GPU, or one per node if there is no GPU.

    Raises:
        ResourceError: NN-RES-008.
    """

    def __init__(self, run: Run, address: str, n_workers: int | None = None):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
        import ray

        self._ray = ray
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _knock(address)  # Ray itself would try for minutes
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=run.debug,
                configure_logging=False,
            )
        except Exception as error:  # it has several kinds
            raise ResourceError(
                "NN-RES-008",
                f"the Ray cluster cannot be reached ({type(error).__name__})",
                "--ray",
                "check its address; it runs with the same versions of ray and Python",
            ) from error
        signal.signal(signal.SIGTERM, handler)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._n_workers, n_cpus, n_gpus = _share_out(nodes, n_workers)
        # Ray also sets OMP_NUM_THREADS to num_cpus.
        self._actor: Any = ray.remote(num_cpus=n_cpus, num_gpus=n_gpus)(_Actor)
        self._arguments = (ray.put(run), str(Path.cwd()), n_cpus)
        self._starting: dict[Any, Any] = {}  # actor by the reference that says that it is ready
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Job]] = {}  # actor and job by the reference of the outcome
        self._n_lost = 0  # actors that were lost before they had started, one after the other
        for _ in range(self._n_workers):
            self._start()

    def _start(self) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.ready.remote()] = actor

    def n_idle(self) -> int:
        """Actors that have started and have no job."""
        return len(self._idle)

    def give(self, job: Job) -> None:
        """Send a job to an actor."""
        actor = self._idle.pop()
        self._busy[actor.do.remote(job)] = (actor, job)

    def wait(self) -> list[Ended]:
        """Wait until an actor has started, a job ends, or an actor is lost."""
        references = [*self._starting, *self._busy]
        found: list[Any] = []
        while not found:
            found, _ = self._ray.wait(references, num_returns=1, timeout=POLL_S)
        (reference,) = found
        if reference in self._starting:
            actor = self._starting.pop(reference)
            if self._answer(reference) is None:
                self._n_lost += 1
                if self._n_lost > MAX_LOST * self._n_workers:
                    raise _cannot_start("they end at once")
                self._start()
            else:
                self._n_lost = 0
                self._idle.append(actor)
            return []
        actor, job = self._busy.pop(reference)
        outcome = self._answer(reference)
        if outcome is None:
            self._start()
        else:
            self._idle.append(actor)
        return [(job, outcome)]

    def _answer(self, reference: Any) -> Any:
        """What an actor returned; None if it was lost.

        Raises:
            NormNetError: If it can do no job.
        """
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except (errors.RayActorError, errors.OutOfMemoryError):
            return None
        except errors.RayError as error:
            raise _cannot_start(type(error).__name__) from error
        if isinstance(answer, NormNetError):
            raise answer
        return answer

    def close(self) -> None:
        """End all actors; what one of them was writing is removed by the next run."""
        actors = [
            *self._starting.values(),
            *self._idle,
            *(actor for actor, _ in self._busy.values()),
        ]
        for actor in actors:
            with suppress(Exception):  # it may be lost already
                self._ray.kill(actor)
        self._ray.shutdown()


def _share_out(nodes: list[dict[str, float]], n_workers: int | None) -> tuple[int, int, int]:
    """How many workers there are, and how many cores and GPUs each has.

    Args:
        nodes: Resources of each node.
        n_workers: As the user wishes; None: one per GPU, or one per node if there is no GPU.
    """
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpu:
        n_gpus = sum(int(node["GPU"]) for node in with_gpu)
        n_cpus = min(int(node.get("CPU", 1) // node["GPU"]) for node in with_gpu)
        return n_workers or n_gpus, max(1, n_cpus), 1
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    n_workers = n_workers or len(cores)
    return n_workers, max(1, min(cores) // math.ceil(n_workers / len(cores))), 0


def _cannot_start(why: str) -> ResourceError:
    return ResourceError(
        "NN-RES-008",
        f"workers in the Ray cluster cannot start ({why})",
        "--ray",
        "install this version of normnet on all nodes",
    )


def _knock(address: str) -> None:
    """See that someone listens at an address that names a host and a port.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


class _Actor:
    """One worker on a node.

    Args:
        run: What the scans share.
        folder: Where the paths of the user begin.
        n_threads: Of this worker.
    """

    def __init__(self, run: Run, folder: str, n_threads: int):
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(n_threads)
        logging.disable(logging.CRITICAL)
        self._run, self._folder = run, Path(folder)
        self._worker = DistantWorker(run)

    def ready(self) -> bool | NormNetError:
        """Whether this node sees the folders."""
        for folder in (self._folder, *([] if self._run.remote else [self._run.out])):
            if not folder.is_dir():
                return OutputError(
                    "NN-OUT-025",
                    "a node of the cluster does not see the folder",
                    folder.name,
                    "use storage that all nodes share, or an s3:// address",
                )
            if folder == self._folder:
                os.chdir(folder)
        return True

    def do(self, job: Job) -> Outcome | NormNetError:
        """As ``DistantWorker.do``."""
        return self._worker.do(job)
