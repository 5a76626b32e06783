"""A Klein application whose map remembers: matching a path costs more than answering from memory."""

from typing import Any, cast

from klein import Klein
from werkzeug.routing import Map, MapAdapter, Rule

from depproxy.web.converters import DigestConverter, PathConverter, ReferenceConverter

# Paths seen lately; longer ones than images have are matched each time.
REMEMBERED = 8192
LONGEST_REMEMBERED = 400


class _Adapter(MapAdapter):
    """One request's view of the map, as Klein uses it: it asks for the rule, and gives no other argument."""

    map: "RememberingMap"

    def match(self, *args: Any, return_rule: bool = False, **kwargs: Any) -> Any:
        if args or kwargs or not return_rule:
            return cast(Any, super().match)(*args, return_rule=return_rule, **kwargs)
        recent = self.map.recent
        found = recent.get(self.path_info)
        if found is None:
            found = super().match(return_rule=True)
            if len(recent) >= REMEMBERED:
                recent.clear()
            if len(self.path_info) <= LONGEST_REMEMBERED:
                recent[self.path_info] = found
        return found


class RememberingMap(Map):
    """Rules that look at the path alone: not at host, scheme or method. Nothing is ever redirected."""

    def __init__(self) -> None:
        # A redirect would name a URL made from the client's Host header.
        super().__init__(
            strict_slashes=False,
            merge_slashes=False,
            redirect_defaults=False,
            converters={"path": PathConverter, "reference": ReferenceConverter, "digest": DigestConverter},
        )
        self.recent: dict[str, tuple[Rule, Any]] = {}

    def bind(
        self,
        server_name: str,
        script_name: str | None = None,
        subdomain: str | None = None,
        url_scheme: str = "http",
        default_method: str = "GET",
        path_info: str | None = None,
        query_args: Any = None,
    ) -> MapAdapter:
        return _Adapter(
            self,
            server_name,
            script_name or "/",
            subdomain or "",
            url_scheme,
            path_info or "/",
            default_method,
            query_args,
        )


class Application(Klein):
    """Klein with our map in place of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._url_map = RememberingMap()
