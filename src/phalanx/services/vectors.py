"""Vectors compared as asked: a pair, one with many, or many with many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phalanx.contract.vectors import Match, VectorSimilarityRequest, VectorSimilarityResponse
from phalanx.engines.vector.reading import read_rows, read_vector, require_equal_sizes
from phalanx.engines.vector.similarity import matrix, nearest, pair, scores
from phalanx.errors import InvalidRequest, TooLarge
from phalanx.services.threads import BoundedThreads
from phalanx.services.ticket import Ticket

Answer = tuple[int, VectorSimilarityResponse]
"""How many vectors were compared, and the answer."""

INLINE_OPERATIONS = 1 << 17
"""Multiplications up to which a comparison takes less time than handing it to a thread: about 0.1 ms."""

MAX_SCORES = 1 << 20
"""Scores in one answer: 1,048,576, about 10 MB of JSON."""

FORMS: tuple[tuple[str, str], ...] = (("a", "b"), ("query", "candidates"), ("left", "right"))
WANTED = "send one form: a and b, query and candidates, or left and right"


class VectorService:
    """Vectors compared. What is small is done at once, the rest in `threads`, a few at a time: BLAS lets go of the interpreter."""

    def __init__(self, threads: BoundedThreads) -> None:
        self._threads = threads

    async def similarity(self, ticket: Ticket, request: VectorSimilarityRequest) -> VectorSimilarityResponse:
        """Compare the vectors of a request.

        Raises `InvalidRequest` for no form or several, for empty vectors and sizes that differ; `UnreadableInput` for NaN,
        infinity, a zero vector under cosine, and results beyond float32; `TooLarge`, `Overloaded`, `DeadlineExceeded`.
        """
        form = form_of(request)
        if request.top_k is not None and form != ("query", "candidates"):
            raise InvalidRequest("top_k goes with query and candidates only", param="top_k")
        work = _WORK[form]
        if _operations(request, form) <= INLINE_OPERATIONS:
            count, response = work(request)
        else:
            self._threads.require(ticket, 0)
            count, response = await self._threads.run(ticket, lambda: work(request))
        ticket.meter.items += count
        ticket.meter.units += count
        return response


def form_of(request: VectorSimilarityRequest) -> tuple[str, str]:
    """Return the names of the two fields that were sent. Raises `InvalidRequest` for none, one, or of two forms."""
    sent = [name for form in FORMS for name in form if getattr(request, name) is not None]
    for form in FORMS:
        if sent == list(form):
            return form
    raise InvalidRequest(
        f"{WANTED}; this request has {' and '.join(sent) or 'none of them'}", param=next(iter(sent), None)
    )


def _operations(request: VectorSimilarityRequest, form: tuple[str, str]) -> int:
    """Return about how many multiplications, and numbers to convert, a request takes. Raises `TooLarge`."""
    if form == ("a", "b"):
        return len(_sent(request.a))
    left = 1 if form[0] == "query" else len(_sent(request.left))
    right = _sent(getattr(request, form[1]))
    if left * len(right) > MAX_SCORES:
        said = f"{left} × {len(right)} vectors make {left * len(right)} scores, {MAX_SCORES} are allowed"
        raise TooLarge(said, param=form[1])
    dimensions = len(right[0]) if len(right) else 0
    return (left * len(right) + left + len(right)) * dimensions


def _sent(value: Any) -> Any:
    """Return a field that is known to have been sent: a list from JSON, an array from a binary body."""
    assert value is not None
    return value


def _pair(request: VectorSimilarityRequest) -> Answer:
    a, b = read_vector(_sent(request.a), "a"), read_vector(_sent(request.b), "b")
    require_equal_sizes(a, b, "a", "b")
    return 2, VectorSimilarityResponse(similarity=pair(a, b, request.metric))


def _one_to_many(request: VectorSimilarityRequest) -> Answer:
    query, candidates = read_vector(_sent(request.query), "query"), read_rows(_sent(request.candidates), "candidates")
    require_equal_sizes(query, candidates, "query", "candidates")
    count = 1 + len(candidates)
    found = scores(query, candidates, request.metric)
    if request.top_k is None:
        return count, VectorSimilarityResponse(scores=found)
    indices, kept = nearest(found, request.top_k, request.metric)
    matches = [Match(index, score) for index, score in zip(indices.tolist(), kept.tolist(), strict=True)]
    return count, VectorSimilarityResponse(matches=matches)


def _many_to_many(request: VectorSimilarityRequest) -> Answer:
    left, right = read_rows(_sent(request.left), "left"), read_rows(_sent(request.right), "right")
    require_equal_sizes(left, right, "left", "right")
    return len(left) + len(right), VectorSimilarityResponse(matrix=matrix(left, right, request.metric))


_WORK: dict[tuple[str, str], Callable[[VectorSimilarityRequest], Answer]] = dict(
    zip(FORMS, (_pair, _one_to_many, _many_to_many), strict=True)
)
