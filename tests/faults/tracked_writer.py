"""A process that logs a row every few milliseconds until it is killed: URI FOLDER FIRST_STEP."""

import sys
import time

from pipelines.tracking import open_run

uri, folder, first = sys.argv[1:]
run = open_run(uri, name="run", folder=folder)
for step in range(int(first), 10**6):
    run.log_metrics({"loss": step, "rate": -step}, step)
    print(step, flush=True)
    time.sleep(0.002)
