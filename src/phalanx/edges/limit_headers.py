"""What an answer says of its caller's limits: the IETF draft's structured fields and the older `X-RateLimit-*`."""

from __future__ import annotations

import functools
import math
import time

from phalanx.edges.fields import Field
from phalanx.ports import Allowance, Grant
from phalanx.services.metering.periods import month_end, month_start


def limit_headers(grant: Grant) -> list[Field]:
    """Return the headers of a grant: every window that applies to its subject, as of now.

    `RateLimit-Policy` and `RateLimit` are draft-ietf-httpapi-ratelimit-headers; times are whole seconds from now, rounded
    up. `X-RateLimit-*` speak of the rate, or of the month where there is no rate.
    """
    rate, quota = grant.rate, grant.quota
    windows: list[bytes] = []
    older: list[Field] = []
    if quota is not None:
        reset = math.ceil(max(0.0, month_end(grant.period) - time.time()))
        left = max(0, quota.limit - quota.used)
        windows.append(b'"month";r=%d;t=%d' % (left, reset))
        older = _older(quota.limit, left, reset)
    if rate is not None:
        # A refused caller asks when the next call passes, others when their whole allowance is back.
        wait = rate.reset_after_s if rate.allowed else rate.retry_after_s
        windows.insert(0, b'"requests";r=%d;t=%d' % (rate.remaining, math.ceil(wait)))
        older = _older(rate.limit, rate.remaining, math.ceil(rate.reset_after_s))
    headers: list[Field] = []
    if windows:
        policy = _policy(grant.allowance, grant.period, rate is not None, quota is not None)
        headers = [(b"ratelimit-policy", policy), (b"ratelimit", b", ".join(windows)), *older]
    if grant.degraded:
        headers.append((b"x-ratelimit-degraded", b"true"))
    return headers


def _older(limit: int, left: int, reset: int) -> list[Field]:
    return [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % left),
        (b"x-ratelimit-reset", b"%d" % reset),
    ]


@functools.lru_cache(256)
def _policy(allowance: Allowance, period: str, has_rate: bool, has_quota: bool) -> bytes:
    policies: list[bytes] = []
    if has_rate and allowance.rate is not None:
        policies.append(b'"requests";q=%d;w=60' % allowance.rate.per_minute)
    if has_quota and allowance.monthly is not None:
        policies.append(b'"month";q=%d;w=%d' % (allowance.monthly, month_end(period) - month_start(period)))
    return b", ".join(policies)
