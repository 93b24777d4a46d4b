"""Errors that a restart would meet again, kept in the cluster's own store while a run lasts.

Ray Train restarts all workers for an exception in any of them. A rank that fails alone cannot
end the others, who wait for it; so it leaves its reason here and raises, and the workers that are
started next hand the reason back at once.
"""

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put


def set_final_error(folder: str, reason: str) -> None:
    """Called by a rank, before it raises."""
    _internal_kv_put(_key(folder), reason)


def final_error(folder: str) -> str:
    """Why the run in a folder cannot go on; empty where it can."""
    return (_internal_kv_get(_key(folder)) or b"").decode()


def clear_final_error(folder: str) -> None:
    """Called by the command before workers start."""
    _internal_kv_del(_key(folder))


def _key(folder: str) -> str:
    return f"sddusr-final-error-{folder}"
