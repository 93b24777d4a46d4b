"""How busy a worker's machine is, under the names of MLflow's own system metrics.

They are rows of the run's folder like all others: MLflow's own sampler loses what it measures while
the server cannot be reached.
"""

import logging
import os
from typing import Any

import psutil

log = logging.getLogger(__name__)

MB = 1e6


class SystemMetrics:
    """Use of processor (since the last look), memory, disk, network (since the start) and GPUs."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # begins to count
        self._network = psutil.net_io_counters()
        self._gpus = _Gpus()

    def read(self) -> dict[str, float]:
        """What `system/NAME` is now."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(os.sep)
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MB,
            **self._network_since_start(),
            **self._gpus.read(),
        }
        return {f"system/{name}": round(value, 1) for name, value in found.items()}

    def _network_since_start(self) -> dict[str, float]:
        now = psutil.net_io_counters()
        if now is None or self._network is None:  # a container without a network
            return {}
        return {
            "network_receive_megabytes": (now.bytes_recv - self._network.bytes_recv) / MB,
            "network_transmit_megabytes": (now.bytes_sent - self._network.bytes_sent) / MB,
        }


class _Gpus:
    """The GPUs that the driver shows; none where there is no driver."""

    def __init__(self) -> None:
        import pynvml

        self._nvml, self._handles = pynvml, []
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except pynvml.NVMLError as error:
            log.debug("No GPU is measured: %s", error)

    def read(self) -> dict[str, float]:
        found = {}
        for number, handle in enumerate(self._handles):
            for name, value in self._read_one(handle).items():
                found[f"gpu_{number}_{name}"] = value
        return found

    def _read_one(self, handle: Any) -> dict[str, float]:
        """What the driver reports of a GPU; some report less."""
        nvml, found = self._nvml, {}
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found["memory_usage_megabytes"] = memory.used / MB
            found["memory_usage_percentage"] = 100 * memory.used / memory.total
            found["utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            found["power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        except nvml.NVMLError as error:
            log.debug("A GPU is measured in part: %s", error)
        return found
