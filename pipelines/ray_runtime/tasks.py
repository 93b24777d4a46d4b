"""One Ray Data task for each of many pieces of work."""

import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast

from pipelines.ray_runtime import cluster

SKIPPED = ""
"""What a task gives that began after the last result was asked for."""


def run_tasks(work: Callable[[int], str], num: int) -> Generator[str]:
    """`work(0)` to `work(num - 1)`, a task each, in the order in which they end.

    Ray repeats the tasks whose worker dies. `work` returns its problems: a task far away that
    raises reaches its user as a page of traceback. Closed early, it waits for the tasks that have
    begun, since Ray would end them amid a write; the others do nothing.
    """
    if not num:
        return
    import ray.data
    from ray.experimental.internal_kv import (
        _internal_kv_del,
        _internal_kv_exists,
        _internal_kv_put,
    )

    cluster.init_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Half of the cores would be kept back for operators around the only one there is.
    context.op_resource_reservation_enabled = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would bury ours
    items = [{"index": index} for index in range(num)]
    dataset = ray.data.from_items(items, override_num_blocks=num)
    # A word in the cluster's own store says that nobody waits any more. An actor would be a process
    # to start before the first task, and a task that waits for one lends its core to the next task.
    stop = f"sddusr-stop-{uuid.uuid4().hex}"

    def task(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": SKIPPED if _internal_kv_exists(stop) else work(row["index"])}

    # One iterator: each new one would run the tasks again.
    rows = iter(dataset.map(task, num_cpus=1).iter_rows())
    try:
        for row in rows:
            yield row["result"]
    except GeneratorExit:
        _internal_kv_put(stop, "asked")
        for _ in rows:
            pass
        _internal_kv_del(stop)
        raise


def map_actors(
    actor: Any,
    args: Sequence[Any],
    *,
    num_items: int,
    num_actors: int,
    num_gpus: float,
    in_order: bool,
) -> Iterator[dict[str, Any]]:
    """Call actors with `{"index": 0}`, `{"index": 1}`, ...; yield their rows.

    Args:
        actor: a class; its `__call__` returns a row, of the same columns for each item.
        args: what each actor is made with.
        num_gpus: of each actor, which also holds an equal share of the cores.
        in_order: by index; else each row as soon as it is made.

    Raises:
        ValueError: the cluster has no room for that many actors.
    """
    import ray.data

    cluster.init_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = in_order
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would bury ours
    items = [{"index": index} for index in range(num_items)]
    rows = ray.data.from_items(items, override_num_blocks=num_items).map(
        actor,
        fn_constructor_args=tuple(args),
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=cluster.cores_for_each(num_actors, "--num-actors", num_gpus),
        num_gpus=num_gpus,
    )
    # Without prefetching, which would hold each row back until the next one is made.
    for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
        columns = cast(dict[str, Any], batch)
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
