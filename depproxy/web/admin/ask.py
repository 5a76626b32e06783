"""The arguments of an admin request."""

import json
from collections.abc import Collection, Mapping
from typing import Self

from attrs import frozen
from twisted.web.http import Request

from depproxy.web.admin.answers import AdminError

# Of one text: a group's path, an image's name, or a digest fits several times.
LONGEST_TEXT = 1024
MOST_TEXTS = 1000


@frozen
class Ask:
    """What is asked for. Each reader raises AdminError (400) for an argument that is not what it should be."""

    arguments: Mapping[str, object]

    @classmethod
    def of(cls, request: Request, method: bytes, names: Collection[str]) -> Self:
        """
        The arguments of a request: of a GET from its query, of a POST from its body, a JSON object or nothing.

        Raises AdminError: 405 for another method, 400 for arguments that are not among `names`.
        """
        if request.method != method:
            raise AdminError(f"this is asked by {method.decode()}", 405)
        found = _query(request) if method == b"GET" else _body(request)
        for name in found:
            if name not in names:
                raise AdminError(f"the running service does not know the argument {name[:100]!r} of this command")
        return cls(found)

    def text(self, name: str) -> str | None:
        """A text that is not empty; None if it was not given."""
        value = self.arguments.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT:
            raise AdminError(f"{name} must be a text of 1 to {LONGEST_TEXT} characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of texts; empty if it was not given. Only a POST can give one."""
        value = self.arguments.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MOST_TEXTS:
            raise AdminError(f"{name} must be an array of at most {MOST_TEXTS} texts")
        if not all(isinstance(item, str) and 1 <= len(item) <= LONGEST_TEXT for item in value):
            raise AdminError(f"each of {name} must be a text of 1 to {LONGEST_TEXT} characters")
        return tuple(value)

    def number(self, name: str, least: int, most: int, default: int) -> int:
        """A whole number within limits; `default` if it was not given. Only a POST can give one."""
        value = self.arguments.get(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise AdminError(f"{name} must be a whole number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if it was not given."""
        value = self.arguments.get(name, False)
        # A query has texts only.
        value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise AdminError(f"{name} must be true or false")
        return value


def _query(request: Request) -> dict[str, object]:
    found: dict[str, object] = {}
    for raw, values in (request.args or {}).items():
        try:
            name, value = raw.decode(), values[0].decode()
        except UnicodeDecodeError:
            raise AdminError("the query must be UTF-8") from None
        if len(values) > 1:
            raise AdminError(f"{name[:100]!r} is there twice")
        found[name] = value
    return found


def _body(request: Request) -> dict[str, object]:
    body = b"" if request.content is None else request.content.read()
    if not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise AdminError("the body is not JSON") from None
    if not isinstance(found, dict):
        raise AdminError("the body must be a JSON object")
    return found
