"""One Ray Data task for each of many pieces of work."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from pipelines import cli


def run_tasks(work: Callable[[int], str], num: int) -> Iterator[str]:
    """`work(0)` to `work(num - 1)`, a task each, in the order in which they end.

    Ray repeats the tasks whose worker dies. `work` returns its problems: a task far away that
    raises reaches its user as a page of traceback.
    """
    if not num:
        return
    import ray.data

    cli.init_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would bury ours
    items = [{"index": index} for index in range(num)]
    dataset = ray.data.from_items(items, override_num_blocks=num)

    def task(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": work(row["index"])}

    for row in dataset.map(task, num_cpus=1).iter_rows():
        yield row["result"]
