"""The queues of requests: a stream for each base model, read by the engines that serve it. Import it from jobs.stream.

Guarantees: a request is queued whole or not at all, together with its group, also when the group names several base
models; an id that is known already is not queued twice. The streams are bounded by refusing, never by trimming, which
would lose requests; an engine takes an entry out when the answer is done (jobs/engine_writer.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from jobs.stream_redis import async_client, client, redis_errors
from jobs.stream_request import GenerateRequest
from ml.errors import BusyError

LOAD = "cf:load"
"""Hash: unfinished requests by team."""
QUEUE_LIMIT = 1000
"""Unfinished requests of one base model."""
TEAM_QUEUE_LIMIT = 400


def requests_key(base: str) -> str:
    """Stream of the requests for a base model."""
    return f"cf:requests:{base}"


_SUBMIT = """
local limit, team_limit, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local fresh, teams, queued = {}, {}, {}
for i = 4, #ARGV, 5 do
  if redis.call('EXISTS', 'cf:answer:' .. ARGV[i]) == 0 then
    fresh[#fresh + 1] = i
    local team, base = ARGV[i + 1], ARGV[i + 4]
    teams[team] = (teams[team] or tonumber(redis.call('HGET', KEYS[1], team) or '0')) + 1
    if teams[team] > team_limit then return {'team', teams[team] - 1, base} end
    queued[base] = (queued[base] or redis.call('XLEN', 'cf:requests:' .. base)) + 1
    if queued[base] > limit then return {'base', redis.call('XLEN', 'cf:requests:' .. base), base} end
  end
end
for _, i in ipairs(fresh) do
  local answer, ends, base = 'cf:answer:' .. ARGV[i], ARGV[i + 3], ARGV[i + 4]
  redis.call('XADD', answer, '0-1', 'e', 'queued', 'd', cjson.encode({ends_ms = tonumber(ends), base = base}))
  redis.call('PEXPIRE', answer, tonumber(ends) - now + 3600000)
  local fields = {'id', ARGV[i], 'team', ARGV[i + 1], 'ends_ms', ends, 'd', ARGV[i + 2]}
  redis.call('XADD', 'cf:requests:' .. base, '*', unpack(fields))
  redis.call('HINCRBY', KEYS[1], ARGV[i + 1], 1)
end
return {'ok', tonumber(redis.call('HGET', KEYS[1], ARGV[5]) or '0'), ''}
"""


def _submit_arguments(requests: Sequence[GenerateRequest], limit: int, team_limit: int) -> list[str]:
    now = int(time.time() * 1000)
    arguments = [str(limit), str(team_limit), str(now)]
    for request in requests:
        ends = now + int(request.deadline_s * 1000)
        arguments += [request.id, str(request.team_id), request.as_json(), str(ends), request.base]
    return arguments


def _check_queued(reply: Sequence[Any]) -> int:
    state, count, base = reply
    if state == "ok":
        return int(count)
    whose = "Your team has" if state == "team" else f"The engines of {base} together have"
    raise BusyError(f"{whose} {count} unfinished requests, the most there may be.", hint="Try again in some seconds.")


def submit(requests: Sequence[GenerateRequest], *, limit: int = QUEUE_LIMIT, team_limit: int = TEAM_QUEUE_LIMIT) -> int:
    """Queues all or none; returns how many unfinished requests the first one's team has then. Raises BusyError (queue
    full) or UnavailableError (redis down)."""
    with redis_errors("submit the request"):
        reply = client().eval(_SUBMIT, 1, LOAD, *_submit_arguments(requests, limit, team_limit))
    return _check_queued(reply)


async def asubmit(
    requests: Sequence[GenerateRequest], *, limit: int = QUEUE_LIMIT, team_limit: int = TEAM_QUEUE_LIMIT
) -> int:
    with redis_errors("submit the request"):
        arguments = _submit_arguments(requests, limit, team_limit)
        reply = await async_client().eval(_SUBMIT, 1, LOAD, *arguments)
    return _check_queued(reply)
