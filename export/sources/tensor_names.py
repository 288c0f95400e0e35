"""Names of tensors as the code that trained them uses them."""

from __future__ import annotations

from collections.abc import Iterable

from ...runtime.errors import CheckpointError

# DataParallel, torch.compile, FSDP and activation checkpointing add these to names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def plain_names(file_name: str, names: Iterable[str]) -> dict[str, str]:
    """Names without the parts that wrappers add, each with the name in the file.

    Raises:
        CheckpointError: two tensors have the same one.
    """
    stored: dict[str, str] = {}
    for name in names:
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain in stored:
            raise CheckpointError(
                f"{file_name}: {stored[plain]} and {name} are two tensors for {plain}"
            )
        stored[plain] = name
    return stored
