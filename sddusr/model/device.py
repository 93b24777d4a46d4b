"""What keeps a process from the GPU that it was given, in one line."""

import torch


class DeviceError(ValueError):
    """A process does not get the GPU that it was given; another try would meet the same."""


def gpu_problem() -> str:
    """Why torch finds no GPU, its driver being too old for one; empty where it finds one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        return f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}: {reason}"
    return "no device is visible, see CUDA_VISIBLE_DEVICES"


def check_not_sliced(visible_devices: str, num_local_ranks: int) -> None:
    """Refuse several ranks on the MIG slices of a node: a process sees the first of them only.

    Args:
        visible_devices: CUDA_VISIBLE_DEVICES.

    Raises:
        DeviceError: they would not find their devices.
    """
    if num_local_ranks > 1 and any(x.strip().startswith("MIG") for x in visible_devices.split(",")):
        raise DeviceError(
            f"{num_local_ranks} workers on a node whose GPUs are MIG slices, of which CUDA shows "
            f"the first only; switch MIG off there, or give each node one worker"
        )
