"""A process that logs a row every few milliseconds until it is killed: URI FOLDER FIRST_STEP."""

import sys
import time

from pipelines.tracking.background import describe, mirrored
from sddusr.runs.run_folder import RunFolder

uri, folder, first = sys.argv[1:]
run = RunFolder(folder)
describe(run, uri, name="run", experiment="tests")
with mirrored(run, uri):
    for step in range(int(first), 10**6):
        run.log_metrics(step, {"loss": step, "rate": -step})
        print(step, flush=True)
        time.sleep(0.002)
