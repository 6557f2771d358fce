"""Which endpoint answers a method and a path. Paths without parameters are one dictionary look-up."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.routing import compile_path

from phalanx.edges.http.exchange import Envelope, Exchange
from phalanx.edges.http.problems import problem_body
from phalanx.errors import MethodNotAllowed, NotFound

Answer = Callable[[Exchange, dict[str, str]], Awaitable[None]]


class Endpoint(NamedTuple):
    """What answers a route. `operation` and `dialect` label its log line and metrics; `envelope` words its errors."""

    route: str
    answer: Answer
    operation: str = ""
    dialect: str = ""
    envelope: Envelope = problem_body


class Match(NamedTuple):
    """An endpoint and the path's parameters, as text."""

    endpoint: Endpoint
    params: dict[str, str]


class Routes:
    """All routes of the edge."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        self._by_path: dict[str, dict[str, Endpoint]] = {}

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Add a route; a path may hold `{name}` and `{name:path}`. Raises `ValueError` when it is taken."""
        methods = self._by_path.setdefault(path, {})
        if method in methods:
            raise ValueError(f"two endpoints answer {method} {path}")
        if not methods:
            if "{" in path:
                self._patterns.append((compile_path(path)[0], methods))
            else:
                self._exact[path] = methods
        methods[method] = endpoint

    def find(self, method: str, path: str) -> Match:
        """Return who answers; to another method it is a refusal, in the words of the path's dialect. Raises `NotFound`."""
        methods = self._exact.get(path)
        params: dict[str, str] = {}
        if methods is None:
            methods, params = self._search(path)
        endpoint = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        return Match(endpoint or _refusal(method, methods), params)

    def methods(self, path: str) -> list[str]:
        """Return the methods that a path answers. Raises `NotFound`."""
        return _names(self._exact.get(path) or self._search(path)[0])

    def _search(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]]:
        for pattern, methods in self._patterns:
            matched = pattern.match(path)
            if matched:
                return methods, matched.groupdict()
        raise NotFound(f"there is no route {path[:200]!r}; /docs lists all")


def _refusal(method: str, methods: dict[str, Endpoint]) -> Endpoint:
    """Return what says which methods there are."""

    async def answer(exchange: Exchange, params: dict[str, str]) -> None:
        allowed = ", ".join(_names(methods))
        raise MethodNotAllowed(f"{method} is not answered here; {allowed} is", allow=allowed)

    return next(iter(methods.values()))._replace(answer=answer, operation="")


def _names(methods: dict[str, Endpoint]) -> list[str]:
    return sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
