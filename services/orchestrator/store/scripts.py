"""The Lua scripts that change a session: each is one atomic step, and each may safely be run twice.

They may run twice because the connection can break after a script ran and before its answer came; then `Database` runs
it again. So every script recognises its own earlier run: by version, by change token, by owner, or by sequence number.

KEYS are those of `SessionRef.keys`. Times are Redis's own, in milliseconds, so replicas need no common clock.
Every write of a running round carries its fence, `incarnation-number`; a fence that is not the run's own changes
nothing, which is what makes an owner harmless that was frozen and wakes up after another took the round over.
"""

from __future__ import annotations

from services.orchestrator.store.database import Script

_PRELUDE = """
local SESSION, ROUNDS, STREAMED, RUN, REQUESTS, EVENTS = unpack(KEYS)
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function touch()
  local ttl = tonumber(redis.call('HGET', SESSION, 'ttl_ms'))
  redis.call('HSET', SESSION, 'expires_ms', now() + ttl)
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ttl) end
end
local function change()
  redis.call('HINCRBY', SESSION, 'version', 1)
  redis.call('HSET', SESSION, 'updated_ms', now())
end
-- Takes `count` arguments from `first` on; returns the index after them.
local function add_events(first, count, attempt, sequence)
  for i = 0, count - 1 do
    redis.call('XADD', EVENTS, attempt .. '-' .. (sequence + 1 + i), 'event', ARGV[first + i])
  end
  return first + count
end
local function add_streamed(first, pairs_count)
  for i = 0, pairs_count - 1 do
    redis.call('HSET', STREAMED, ARGV[first + 2 * i], ARGV[first + 2 * i + 1])
  end
  return first + 2 * pairs_count
end
-- Ends the running round without a result; whoever follows it reads `status`.
local function abandon(status)
  local run = redis.call('HMGET', RUN, 'request_id', 'attempt', 'sequence')
  if not run[1] then return end
  redis.call('XADD', EVENTS, run[2] .. '-' .. (run[3] + 1), 'error', status)
  redis.call('HDEL', REQUESTS, run[1])
  redis.call('DEL', RUN)
end
"""


def _script(body: str) -> Script:
    return Script(_PRELUDE + body)


# incarnation, number of field/value arguments, fields..., number of rounds, rounds..., number of images, id, sha256...
# -> the session's hash if it was made now or by the same incarnation, else nil
CREATE = _script("""
if redis.call('EXISTS', SESSION) == 1 then
  if redis.call('HGET', SESSION, 'incarnation') ~= ARGV[1] then return false end
  return redis.call('HGETALL', SESSION)
end
local at = 3
for i = at, at + ARGV[2] - 1, 2 do redis.call('HSET', SESSION, ARGV[i], ARGV[i + 1]) end
at = at + ARGV[2]
local created = now()
redis.call('HSET', SESSION, 'incarnation', ARGV[1], 'version', 1, 'created_ms', created, 'updated_ms', created)
local rounds = tonumber(ARGV[at])
for i = at + 1, at + rounds do redis.call('RPUSH', ROUNDS, ARGV[i]) end
redis.call('HSET', SESSION, 'round_count', rounds)
at = at + rounds + 1
add_streamed(at + 1, tonumber(ARGV[at]))
touch()
return redis.call('HGETALL', SESSION)
""")

# request id, 1 to read the rounds, image ids...
# -> now, session, rounds, run, entry of the request, sha256 of each image ('' if it was never streamed)
LOAD = _script("""
local rounds = {}
if ARGV[2] == '1' then rounds = redis.call('LRANGE', ROUNDS, 0, -1) end
local streamed = {}
for i = 3, #ARGV do
  streamed[i - 2] = redis.call('HEXISTS', STREAMED, ARGV[i]) == 1 and {redis.call('HGET', STREAMED, ARGV[i])} or {}
end
local entry = redis.call('HGET', REQUESTS, ARGV[1])
return {now(), redis.call('HGETALL', SESSION), rounds, redis.call('HGETALL', RUN), entry or '', streamed}
""")

# expected version, request id, digest, owner, lease_ms, status for the run that this one replaces, events...
# -> {'ok', fence, attempt, sequence} | {'again'} when something changed meanwhile | {'busy', ms left of the lease}
BEGIN = _script("""
local request, digest, owner, lease = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local run = redis.call('HMGET', RUN, 'owner', 'fence', 'attempt', 'sequence', 'lease_until')
if run[1] == owner then return {'ok', run[2], run[3], run[4]} end
if redis.call('HEXISTS', REQUESTS, request) == 1 then return {'again'} end
if redis.call('HGET', SESSION, 'version') ~= ARGV[1] then return {'again'} end
if run[1] then
  local left = run[5] - now()
  if left > 0 then return {'busy', left} end
  abandon(ARGV[6])
end
local attempt = redis.call('HINCRBY', SESSION, 'attempts', 1)
local fence = redis.call('HGET', SESSION, 'incarnation') .. '-' .. redis.call('HINCRBY', SESSION, 'fences', 1)
local count = #ARGV - 6
add_events(7, count, attempt, 0)
redis.call('HSET', RUN, 'request_id', request, 'owner', owner, 'fence', fence, 'attempt', attempt,
  'sequence', count, 'lease_until', now() + lease, 'partial', '')
redis.call('HSET', REQUESTS, request, attempt .. '|' .. digest .. '||')
touch()
return {'ok', fence, attempt, count}
""")

# request id, owner, lease_ms -> {'ok', fence, attempt, sequence, partial} | {'again'} | {'busy', ms left of the lease}
CLAIM = _script("""
local run = redis.call('HMGET', RUN, 'owner', 'fence', 'attempt', 'sequence', 'lease_until', 'request_id', 'partial')
if run[6] ~= ARGV[1] then return {'again'} end
if run[1] == ARGV[2] then return {'ok', run[2], run[3], run[4], run[7]} end
local left = run[5] - now()
if left > 0 then return {'busy', left} end
local fence = redis.call('HGET', SESSION, 'incarnation') .. '-' .. redis.call('HINCRBY', SESSION, 'fences', 1)
redis.call('HSET', RUN, 'owner', ARGV[2], 'fence', fence, 'lease_until', now() + ARGV[3])
touch()
return {'ok', fence, run[3], run[4], run[7]}
""")

# fence, expected sequence, lease_ms, partial ('' keeps the old one), number of images, id, sha256..., events...
# -> 1, or 0 for a stale owner
APPEND = _script("""
local run = redis.call('HMGET', RUN, 'fence', 'attempt', 'sequence')
if run[1] ~= ARGV[1] then return 0 end
local images = tonumber(ARGV[5])
local first = 6 + 2 * images
local count = #ARGV - first + 1
if tonumber(run[3]) == ARGV[2] + count and count > 0 then return 1 end
if run[3] ~= ARGV[2] then return 0 end
add_streamed(6, images)
add_events(first, count, run[2], tonumber(run[3]))
redis.call('HSET', RUN, 'sequence', run[3] + count, 'lease_until', now() + ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', RUN, 'partial', ARGV[4]) end
touch()
return 1
""")

# fence, lease_ms -> 1, or 0 for a stale owner. A lease of 0 ms gives the round to whoever asks for it next.
RENEW = _script("""
if redis.call('HGET', RUN, 'fence') ~= ARGV[1] then return 0 end
redis.call('HSET', RUN, 'lease_until', now() + ARGV[2])
touch()
return 1
""")

# fence, request id, expected version, expected sequence, index, round, number of images, id, sha256..., events...
# -> 'ok' | 'again' when the version changed | 'stale' for a stale owner
COMMIT = _script("""
local index, round = ARGV[5], ARGV[6]
local run = redis.call('HMGET', RUN, 'fence', 'attempt', 'sequence')
local entry = redis.call('HGET', REQUESTS, ARGV[2])
if run[1] ~= ARGV[1] then
  if entry and string.match(entry, '|([^|]*)$') == ARGV[1] then return 'ok' end
  return 'stale'
end
if run[3] ~= ARGV[4] or redis.call('LLEN', ROUNDS) ~= tonumber(index) then return 'stale' end
if redis.call('HGET', SESSION, 'version') ~= ARGV[3] then return 'again' end
local images = tonumber(ARGV[7])
local first = add_streamed(8, images)
local count = #ARGV - first + 1
add_events(first, count, run[2], tonumber(run[3]))
redis.call('XADD', EVENTS, run[2] .. '-' .. (run[3] + count + 1), 'round', index)
redis.call('RPUSH', ROUNDS, round)
redis.call('HSET', SESSION, 'round_count', index + 1)
local digest = string.match(entry, '^[^|]*|([^|]*)|')
redis.call('HSET', REQUESTS, ARGV[2], run[2] .. '|' .. digest .. '|' .. index .. '|' .. ARGV[1])
redis.call('DEL', RUN)
change()
touch()
return 'ok'
""")

# fence, status -> 1, or 0 for a stale owner. Ends the running round without a result.
FAIL = _script("""
if redis.call('HGET', RUN, 'fence') ~= ARGV[1] then return 0 end
abandon(ARGV[2])
touch()
return 1
""")

# expected version, change token, status that ends a running round ('' lets it run), fields and values...
# -> the session's hash, or nil when the version changed
UPDATE = _script("""
if redis.call('HGET', SESSION, 'change') == ARGV[2] then return redis.call('HGETALL', SESSION) end
if redis.call('HGET', SESSION, 'version') ~= ARGV[1] then return false end
for i = 4, #ARGV, 2 do redis.call('HSET', SESSION, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', SESSION, 'change', ARGV[2])
if ARGV[3] ~= '' then abandon(ARGV[3]) end
change()
touch()
return redis.call('HGETALL', SESSION)
""")

# expected version, '' for any -> 1, or 0 when the version changed
DELETE = _script("""
local version = redis.call('HGET', SESSION, 'version')
if version and ARGV[1] ~= '' and version ~= ARGV[1] then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
""")
