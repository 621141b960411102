"""``--ray``: a node that is lost in the middle loses no scan, and no scan is done twice."""

from __future__ import annotations

import csv
import os
import threading
from contextlib import contextmanager

import pytest

from normnet.results.schema import FILES, RESULT, read_result
from tests.cli.batch.stubs import at_work, n_done
from tests.waiting import is_running, wait_until

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'normnet[cluster]')")


@pytest.fixture
def nodes(words, monkeypatch):
    """A local test cluster of two nodes with one core each, and the second of them."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # a busy machine takes its time
    few = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={**few, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**few)
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def beside(work):
    """Run a function in a thread while the block runs."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def test_a_lost_node(segment, cts, words, nodes, tmp_path, capfd):
    cluster, lost = nodes
    (words / "wait").touch()

    def lose():
        """Both nodes work on a scan; then one of them is gone, and its process with it."""
        wait_until(lambda: len(at_work(words)) == 2, within_s=600)
        pids = at_work(words)
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: not all(map(is_running, pids)), within_s=600)
        (words / "wait").unlink()

    with beside(lose):
        assert segment(cts, "--ray", cluster.address, "--workers", "2") == 0
    told = capfd.readouterr()
    assert told.err.count("the process that segmented it has ended; it is tried again") == 1
    assert "4 scans: 4 segmented, 0 done already, 0 failed" in told.out
    with (tmp_path / "out/results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["folder"], row["status"]) for row in rows] == [(name, "ok") for name in "abcd"]
    for name in "abcd":
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == {*FILES, RESULT}
    assert sorted(n_done(words, name) for name in "abcd") == [1, 1, 1, 2]
    assert segment(cts, out=tmp_path / "alone") == 0
    for name in "abcd":
        one, other = (read_result(tmp_path / place / name) for place in ("out", "alone"))
        assert one["files"] == other["files"]


def test_no_cluster_and_no_statistics(segment, cts, words, monkeypatch, capfd):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert segment(cts, "--ray", "127.0.0.1:1") == 8
    assert "NN-RES-008: the Ray cluster cannot be reached" in capfd.readouterr().err
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize(
    ("nodes", "n_workers", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 4}, {}], None, (2, 4, 0)),
        ([{"CPU": 8}] * 3, 4, (4, 4, 0)),
        ([{"CPU": 2}], 5, (5, 1, 0)),
        ([{"CPU": 64}, {"CPU": 16, "GPU": 4}, {"CPU": 32, "GPU": 4}], None, (8, 4, 1)),
        ([{"CPU": 2, "GPU": 4}], 2, (2, 1, 1)),
    ],
)
def test_cores_and_gpus_of_a_worker(nodes, n_workers, expected):
    from normnet.cli.batch.cluster import _share_out

    assert _share_out(nodes, n_workers) == expected
