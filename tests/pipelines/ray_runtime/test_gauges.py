"""What workers measure: gauges for Prometheus, with a dashboard, and MLflow's system metrics."""

import json
import re
import sys
import time
import urllib.request

import pytest
import ray

from pipelines.ray_runtime import gauges
from pipelines.ray_runtime.gauges import DESCRIPTIONS, MEMORY, RunGauges, run_name
from pipelines.ray_runtime.system_metrics import SystemMetrics
from tests.cluster.manifests import CLUSTER

PATIENCE_S = 120

DASHBOARD = json.loads((CLUSTER / "grafana" / "sddusr.json").read_text())


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_names_what_is_exported_and_all_of_it():
    named = {name for query in queries() for name in re.findall(r"ray_(\w+)\{", query)}
    assert named == set(DESCRIPTIONS)
    for query in queries():
        assert 'run=~"$run"' in query
        assert set(re.findall(r"\{\{(\w+)\}\}", json.dumps(DASHBOARD))) <= set(gauges.TAGS)
    (variable,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "run"]
    assert variable["query"] in {f"label_values(ray_{name}, run)" for name in DESCRIPTIONS}


def test_gauges_show_a_row_of_each_rank(monkeypatch):
    shown = {}

    class Recorder:
        def __init__(self, name, description, tag_keys):
            self.name, self.tag_keys = name, tag_keys

        def set_default_tags(self, tags):
            assert tuple(tags) == self.tag_keys
            self.tags = tuple(tags.values())

        def set(self, value):
            shown[self.name, *self.tags] = value

    monkeypatch.setattr(gauges, "Gauge", Recorder)
    row = {"train/step_s": 0.5, "train/data_wait_share": 0.1, "train/samples_per_s": 8, "x": 1}
    RunGauges("demo", 1).set(row)
    assert shown == {
        ("sddusr_step_seconds", "demo", "1"): 0.5,
        ("sddusr_data_wait_ratio", "demo", "1"): 0.1,
        ("sddusr_samples_per_second", "demo", "1"): 8,
    }
    monkeypatch.setattr(gauges.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gauges.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(gauges.torch.cuda, "memory_reserved", lambda: 2**30)
    RunGauges("demo", 0).set(row)
    assert shown[MEMORY, "demo", "0"] == 2**30


def test_prometheus_reads_the_gauges_of_a_worker(ray_session):
    @ray.remote(num_cpus=1)
    class Rank:
        def show(self) -> None:
            self.gauges = RunGauges("scraped", 0)
            self.gauges.set(dict.fromkeys(gauges.OF_A_ROW.values(), 0.25))

    rank = Rank.remote()
    ray.get(rank.show.remote())
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    until, lines = time.monotonic() + PATIENCE_S, []
    while len(lines) < len(gauges.OF_A_ROW):
        assert time.monotonic() < until, "Ray exports its metrics every few seconds"
        time.sleep(1)
        with urllib.request.urlopen(address, timeout=30) as answer:
            told = answer.read().decode().splitlines()
        lines = [line for line in told if 'run="scraped"' in line]
    assert {line.partition("{")[0] for line in lines} == {f"ray_{name}" for name in gauges.OF_A_ROW}
    assert all('rank="0"' in line and float(line.split()[-1]) == 0.25 for line in lines)
    ray.kill(rank)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/runs/demo-1a2b", "demo-1a2b"),
        ("/runs/search/trials/0003", "search/0003"),
        ("s3://lab/runs/demo?region=a/b", "demo"),
    ],
)
def test_a_run_is_called_by_its_folder(folder, name):
    assert run_name(folder) == name


def test_system_metrics_have_mlflows_names(monkeypatch):
    found = SystemMetrics().read()
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_available_megabytes",
    } <= found.keys()
    assert 0 < found["system/system_memory_usage_percentage"] <= 100


class Driver:
    """NVML with one GPU that does not tell its power."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        return type("Memory", (), {"used": 5e9, "total": 20e9})

    def nvmlDeviceGetUtilizationRates(self, handle):
        return type("Rates", (), {"gpu": 93})

    def nvmlDeviceGetPowerUsage(self, handle):
        raise self.NVMLError("not supported")


def test_a_gpu_is_measured_by_what_its_driver_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    found = SystemMetrics().read()
    assert found["system/gpu_0_utilization_percentage"] == 93
    assert found["system/gpu_0_memory_usage_megabytes"] == 5000
    assert found["system/gpu_0_memory_usage_percentage"] == 25
    assert "system/gpu_0_power_usage_watts" not in found
