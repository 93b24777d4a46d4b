"""Contact sheets of wide and tele pictures, one Ray Data task a pair; no shards are made."""

import functools
import json
import logging
from contextlib import closing

from pipelines.ray_runtime.tasks import run_tasks
from sddusr.data.loading import Job
from sddusr.data.source_files import Found, Source
from sddusr.registration.pairing import PairConfig
from sddusr.visualization.contact_sheet import write_contact_sheet

logger = logging.getLogger(__name__)


def preview(found: Found, job: Job, config: PairConfig) -> dict[str, str]:
    """Draw each pair to `job.out`/ID.jpg.

    Returns:
        Id -> why it is refused; one that lacks a picture has no sheet.

    Raises:
        OSError: a sheet cannot be written.
    """
    refused = dict(found.orphans)
    work = functools.partial(_task, found.sources, job, config)
    with closing(run_tasks(work, len(found.sources))) as tasks:
        for done, report in enumerate(map(json.loads, tasks), start=1):
            if report["error"]:
                raise OSError(report["error"])
            if report["why"]:
                refused[report["id"]] = report["why"]
            state = "refused" if report["why"] else "registered"
            logger.info("%d/%d pairs: %s %s", done, len(found.sources), report["id"], state)
    logger.info("%s: %d sheets, %d pairs refused", job.out, len(found.sources), len(refused))
    for why in dict(sorted(refused.items())).values():
        logger.info("refused: %s", why)
    return refused


def _task(sources: list[Source], job: Job, config: PairConfig, index: int) -> str:
    source = sources[index]
    report = {"id": source.id, "why": "", "error": ""}
    try:
        report["why"] = write_contact_sheet(source, job, config, job.out)
    except OSError as error:
        report["error"] = getattr(error, "strerror", None) or str(error)
    return json.dumps(report)
