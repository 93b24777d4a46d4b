"""MLflow's client, and what its errors mean: wait, give up, or leave out one entry."""

import logging
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the mirror does the waiting
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import InvalidUrlException, MlflowException
from requests.exceptions import HTTPError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

__all__ = [
    "WRONG_URI",
    "BusyError",
    "DeletedError",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "Param",
    "RefusedError",
    "Run",
    "RunTag",
    "UnreachableError",
    "UnusableError",
    "is_active",
    "make_client",
    "translated",
]

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""MLflow's codes for an entry that it will never take."""

UNUSABLE = (*REFUSALS, "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
"""MLflow's codes for a store or a user that somebody must put right before a run starts."""

OTHER_SCHEMA = "out-of-date database schema"
"""What MLflow says of a database that another version of MLflow made."""

RETRIED_STATUS = (408, 425, 429)
"""HTTP codes of a client error that a later try may not meet."""

WRONG_URI = (InvalidUrlException, ImportError, SQLAlchemyError)

QUIET = {
    "mlflow": logging.CRITICAL,  # the mirror reports what fails
    "urllib3.connectionpool": logging.ERROR,
    "alembic": logging.WARNING,
}


class UnreachableError(Exception):
    """MLflow does not answer, or not now; the same call may succeed later."""


class BusyError(UnreachableError):
    """Something else has to be done first, by another thread or process."""


class UnusableError(UnreachableError):
    """MLflow answers that it cannot be used like this."""


class DeletedError(UnreachableError):
    """The run was deleted in MLflow; once it is restored, all that waits can be sent."""


class RefusedError(Exception):
    """MLflow will never take this entry."""


def make_client(uri: str) -> MlflowClient:
    """A client whose own log stays quiet."""
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(uri)


def is_active(client: Any, run_id: str) -> bool:
    """Whether a run is there and not deleted."""
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def translated(work: Callable[[], Any], *, is_opening: bool = False) -> Any:
    """The result of a call of MLflow's.

    Args:
        is_opening: whether the call finds or creates a run.

    Raises:
        UnreachableError: the call may succeed later.
        UnusableError: for a run's opening, the store cannot be used.
        RefusedError: for all other calls, MLflow refuses the entry.
    """
    try:
        return work()
    except (UnreachableError, RefusedError):
        raise
    except Exception as error:
        raise _meaning(error, is_opening) from error


def _meaning(error: Exception, is_opening: bool) -> Exception:
    code = error.error_code if isinstance(error, MlflowException) else ""
    text = str(error) or repr(error)
    if OTHER_SCHEMA in text:
        return UnusableError(
            "its database was made by another version of MLflow; back it up, then run "
            "`mlflow db upgrade URI`, or install the version that made it"
        )
    if isinstance(error, OperationalError):
        return UnreachableError(text)
    if is_opening:
        is_unusable = code in UNUSABLE or isinstance(error, WRONG_URI)
        return (UnusableError if is_unusable else UnreachableError)(text)
    if isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
        is_refusal = 400 <= status < 500 and status not in RETRIED_STATUS
        return (RefusedError if is_refusal else UnreachableError)(text)
    is_of_store = isinstance(error, MlflowException | OSError | SQLAlchemyError)
    if code in REFUSALS or isinstance(error, FileNotFoundError) or not is_of_store:
        return RefusedError(text)  # a fault of the entry, or of ours
    return UnreachableError(text)
