"""One Ray Data task for each of many pieces of work."""

import logging
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from pipelines import cli

SKIPPED = ""
"""What a task gives that began after the last result was asked for."""


class _Stop:
    """Tells tasks that have not begun that nobody waits for them; an actor."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        self._asked = True

    def is_asked(self) -> bool:
        return self._asked


def run_tasks(work: Callable[[int], str], num: int) -> Generator[str]:
    """`work(0)` to `work(num - 1)`, a task each, in the order in which they end.

    Ray repeats the tasks whose worker dies. `work` returns its problems: a task far away that
    raises reaches its user as a page of traceback. Closed early, it waits for the tasks that have
    begun, since Ray would end them amid a write; the others do nothing.
    """
    if not num:
        return
    import ray.data

    cli.init_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Half of the cores would be kept back for operators around the only one there is.
    context.op_resource_reservation_enabled = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its lines would bury ours
    items = [{"index": index} for index in range(num)]
    dataset = ray.data.from_items(items, override_num_blocks=num)
    stop = cast(Any, ray.remote(num_cpus=0))(_Stop).remote()

    def task(row: dict[str, Any]) -> dict[str, Any]:
        # In a thread: a task whose main thread waits lends its core to another task, for which Ray
        # starts a process; twelve tasks on one core took 25 s at first instead of 5.
        with ThreadPoolExecutor(1) as thread:
            skipped = thread.submit(ray.get, stop.is_asked.remote()).result()
        return {"result": SKIPPED if skipped else work(row["index"])}

    # One iterator: each new one would run the tasks again.
    rows = iter(dataset.map(task, num_cpus=1).iter_rows())
    try:
        for row in rows:
            yield row["result"]
    except GeneratorExit:
        ray.get(stop.ask.remote())
        for _ in rows:
            pass
        raise
