"""Names in checkpoints that stay what they were when the fields of a state are renamed."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

T = TypeVar("T")


def stored_as(**names: str) -> Callable[[type[T]], type[T]]:
    """Registers a dataclass as a pytree, some of whose fields have other `names` in checkpoints."""

    def register(cls: type[T]) -> type[T]:
        own = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        keys = [GetAttrKey(names.get(name, name)) for name in own]

        def flatten(node: T) -> tuple[list[tuple[GetAttrKey, Any]], None]:
            return [(key, getattr(node, name)) for key, name in zip(keys, own, strict=True)], None

        register_pytree_with_keys(cls, flatten, lambda _, children: cls(*children))
        return cls

    return register
