"""How Ref is registered in an evaluation, which every score names."""

from sddusr.data.dataset import ShardSet
from sddusr.registration.residual import RefRegistration


def registration_of(shards: ShardSet) -> str:
    """How Ref was registered when the shards were made."""
    return str(shards.manifest.parameters.get("register_ref", "none"))


def check_registration(
    shards: ShardSet, wanted: RefRegistration | None, trained_on: str | None
) -> str:
    """How Ref is registered in this evaluation; every score names it.

    Args:
        wanted: --register-ref; None: as in the shards.
        trained_on: how the checkpoint's Refs were registered; None without a checkpoint.

    Raises:
        ValueError: the shards hold another kind than the checkpoint wants, or Refs that were
            registered already are asked for as they were.
    """
    stored = registration_of(shards)
    if wanted is None:
        if trained_on is not None and (trained_on == "none") != (stored == "none"):
            raise ValueError(
                f"{shards.root}: Ref was registered by {stored!r}, the checkpoint was trained with "
                f"{trained_on!r}; say --register-ref {trained_on} or --register-ref {stored}"
            )
        return stored
    if wanted != stored and stored != "none":
        raise ValueError(
            f"--register-ref is {wanted}, but {shards.root} holds Refs registered by {stored!r}; "
            f"preprocess again with --register-ref {wanted}"
        )
    return wanted
