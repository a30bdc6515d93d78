"""Names in checkpoints that stay what they were when the fields of a state are renamed."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

T = TypeVar("T")


def stored_as(**names: str) -> Callable[[type[T]], type[T]]:
    """Registers a dataclass as a pytree whose fields have other names in a checkpoint.

    Args:
      names: by field, the name under which checkpoints have always kept it; a field
        that is not named keeps its own.
    """

    def register(cls: type[T]) -> type[T]:
        own = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        keys = [GetAttrKey(names.get(name, name)) for name in own]

        def flatten(node: T) -> tuple[tuple[Any, ...], None]:
            return tuple(getattr(node, name) for name in own), None

        def flatten_with_keys(node: T) -> tuple[tuple[Any, ...], None]:
            return tuple(zip(keys, flatten(node)[0], strict=True)), None

        register_pytree_with_keys(
            cls, flatten_with_keys, lambda _, children: cls(*children), flatten
        )
        return cls

    return register
