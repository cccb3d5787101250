"""Finds the arguments that a subclass of the spider defines."""

from __future__ import annotations

import inspect

from bulkspider.spiders.arguments.reading import ARGUMENTS


def own_arguments(spider: type, base: type) -> tuple[str, ...]:
    """The arguments that a subclass of the spider `base` defines: parameters of its `__init__`, and public attributes
    that are no methods. Without the names of our own arguments."""
    own: dict[str, None] = {}
    for cls in spider.__mro__:
        if cls is base:
            break
        attributes = {**vars(cls), **inspect.get_annotations(cls)}
        own.update(dict.fromkeys(name for name in attributes if _is_data(vars(cls).get(name)) and name[:1] != "_"))
        if "__init__" in vars(cls):
            named = inspect.signature(vars(cls)["__init__"]).parameters.values()
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            own.update(dict.fromkeys(parameter.name for parameter in list(named)[1:] if parameter.kind in kinds))
    return tuple(name for name in own if name not in ARGUMENTS)


def _is_data(attribute: object) -> bool:
    return not callable(attribute) and not isinstance(attribute, (classmethod, staticmethod, property))
