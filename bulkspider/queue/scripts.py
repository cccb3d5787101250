"""What the queue keeps in Redis, and the scripts that change it: each one is atomic, so no worker sees half of a step.

The keys of a job share a prefix in braces, so that they lie on one node of a cluster:

    {bulk:JOB}:meta     hash    when it was made, the default cap, the longest lease of its workers
    {bulk:JOB}:hosts    set     origins (host:port) that have entries left
    {bulk:JOB}:q:ORIGIN stream  one message per unfinished entry (n: its name, e: the entry); group `workers`
    {bulk:JOB}:t:ORIGIN zset    tokens of further connections, by the time at which they lapse
    {bulk:JOB}:later    zset    entries that wait for their next try, by its time
    {bulk:JOB}:caps     hash    origin or host name -> how many at once, where it is not the default
    {bulk:JOB}:closed   hash    origin -> until when it asked to be left alone (Retry-After)
    {bulk:JOB}:served   hash    origin -> when it last gave somebody bytes
    {bulk:JOB}:known    hash    name -> key of its URL, for all entries ever pushed
    {bulk:JOB}:done     hash    name -> what became of it
    {bulk:JOB}:dead     hash    name -> why it was given up, and the entry
    {bulk:JOB}:tries    hash    name -> how often it was taken since its part last grew
    {bulk:JOB}:best     hash    name -> the most bytes its part ever had
    {bulk:JOB}:why      hash    name -> why its last try failed
    {bulk:JOB}:workers  hash    worker -> about it;  {bulk:JOB}:alive  zset  worker -> when it was last heard of

An entry that is done is acknowledged and deleted, so the length of a stream is what is left of its origin. A worker's
lease on an entry is its place in the stream's list of pending messages: the consumer's name is the fencing token, the
idle time is the age of the lease, and the number of pending messages is the origin's concurrency, exactly. Commands of
Redis 6.2 suffice. Times are the server's, in milliseconds; the workers' clocks need not agree.

XGROUP DELCONSUMER loses the messages that are pending with the consumer: it is called for consumers without any.
"""

from __future__ import annotations

GROUP = "workers"

COMMON = """
local p = KEYS[1]

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function stream(origin)
  return p .. 'q:' .. origin
end

local function add(origin, name, entry)
  local q = stream(origin)
  if redis.call('EXISTS', q) == 0 then
    redis.call('XGROUP', 'CREATE', q, 'workers', '0', 'MKSTREAM')
    redis.call('SADD', p .. 'hosts', origin)
  end
  redis.call('XADD', q, '*', 'n', name, 'e', entry)
end

local function remove(origin, id)
  local q = stream(origin)
  redis.call('XACK', q, 'workers', id)
  redis.call('XDEL', q, id)
  if redis.call('XLEN', q) == 0 then
    redis.call('DEL', q)
    redis.call('SREM', p .. 'hosts', origin)
  end
end

local function mine(origin, id, me)
  local q = stream(origin)
  return redis.call('EXISTS', q) == 1 and #redis.call('XPENDING', q, 'workers', id, id, 1, me) == 1
end

-- Leases and tokens out: the connections that the origin has, or may have, from all of us.
local function used(origin, at)
  local t = p .. 't:' .. origin
  redis.call('ZREMRANGEBYSCORE', t, '-inf', at)
  local q = stream(origin)
  local leases = redis.call('EXISTS', q) == 1 and redis.call('XPENDING', q, 'workers')[1] or 0
  return leases + redis.call('ZCARD', t)
end

local function cap(origin)
  local caps = redis.call('HMGET', p .. 'caps', origin, (origin:gsub(':%d+$', '')))
  return tonumber(caps[1] or caps[2] or redis.call('HGET', p .. 'meta', 'cap'))
end

local function forget(name)
  for _, key in ipairs({'tries', 'best', 'why'}) do
    redis.call('HDEL', p .. key, name)
  end
end

-- A part that grew has earned its entry new patience.
local function grown(origin, name, bytes)
  if tonumber(bytes) > tonumber(redis.call('HGET', p .. 'best', name) or 0) then
    redis.call('HSET', p .. 'best', name, bytes)
    redis.call('HSET', p .. 'served', origin, now())
    redis.call('HDEL', p .. 'tries', name)
  end
end
"""

# cap, then origin, name, key, entry of each. Returns how many are new. First come, first served, so largest first.
PUSH = """
redis.call('HSETNX', p .. 'meta', 'made', now())
redis.call('HSETNX', p .. 'meta', 'cap', ARGV[1])
local count = 0
for i = 2, #ARGV, 4 do
  local origin, name, key, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HSETNX', p .. 'known', name, key) == 1 then
    add(origin, name, entry)
    count = count + 1
  end
end
return count
"""

# worker, about it, its lease. Returns false when there is no such job.
JOIN = """
if redis.call('EXISTS', p .. 'meta') == 0 then
  return false
end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', p .. 'meta', 'lease') or 0) then
  redis.call('HSET', p .. 'meta', 'lease', ARGV[3])
end
redis.call('HSET', p .. 'workers', ARGV[1], ARGV[2])
redis.call('ZADD', p .. 'alive', now(), ARGV[1])
return true
"""

# worker. What it still holds stays pending, and goes to others when its lease ends.
LEAVE = """
for _, origin in ipairs(redis.call('SMEMBERS', p .. 'hosts')) do
  if #redis.call('XPENDING', stream(origin), 'workers', '-', '+', 1, ARGV[1]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream(origin), 'workers', ARGV[1])
  end
end
redis.call('HDEL', p .. 'workers', ARGV[1])
redis.call('ZREM', p .. 'alive', ARGV[1])
"""

# worker, most tries, a random number, then origins at which nothing may begin.
# Returns {kind, …}: entry (origin, id, name, entry, tries, most bytes so far), none, over (done, dead), gone.
CLAIM = """
local me, most = ARGV[1], tonumber(ARGV[2])
local at = now()
local lease = redis.call('HGET', p .. 'meta', 'lease')
if not lease then
  return {'gone'}
end
for _, waiting in ipairs(redis.call('ZRANGEBYSCORE', p .. 'later', '-inf', at, 'LIMIT', 0, 16)) do
  local origin, name, entry = waiting:match('^([^\\n]*)\\n([^\\n]*)\\n(.*)$')
  redis.call('ZREM', p .. 'later', waiting)
  add(origin, name, entry)
end
local shut = {}
for i = 4, #ARGV do
  shut[ARGV[i]] = true
end

local function take(origin)
  local q = stream(origin)
  local stale = redis.call('XPENDING', q, 'workers', 'IDLE', lease, '-', '+', 1)[1]
  if stale then
    -- Its worker is gone. It takes its predecessor's place among the pending.
    local got = redis.call('XCLAIM', q, 'workers', me, lease, stale[1])
    if #redis.call('XPENDING', q, 'workers', '-', '+', 1, stale[2]) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', q, 'workers', stale[2])
    end
    return got[1]
  end
  if used(origin, at) < cap(origin) then
    local got = redis.call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', 1, 'STREAMS', q, '>')
    return got and got[1][2][1]
  end
end

local hosts = redis.call('SMEMBERS', p .. 'hosts')
for i = 1, #hosts do
  local origin = hosts[(i + tonumber(ARGV[3])) % #hosts + 1]
  local closed = redis.call('HGET', p .. 'closed', origin)
  if not shut[origin] and not (closed and tonumber(closed) > at) then
    local message = take(origin)
    while message do
      local id, name, entry = message[1], message[2][2], message[2][4]
      local tries = redis.call('HINCRBY', p .. 'tries', name, 1)
      local best = redis.call('HGET', p .. 'best', name) or '0'
      if tries <= most then
        return {'entry', origin, id, name, entry, tries, best}
      end
      local why = redis.call('HGET', p .. 'why', name) or 'its workers died'
      redis.call('HSET', p .. 'dead', name, cjson.encode({
        origin = origin, entry = entry, code = 'fruitless',
        reason = string.format('taken %d times, and its part did not grow; at last: %s', most, why)}))
      remove(origin, id)
      forget(name)
      message = redis.call('EXISTS', stream(origin)) == 1 and take(origin)
    end
  end
end
if redis.call('SCARD', p .. 'hosts') == 0 and redis.call('ZCARD', p .. 'later') == 0 then
  return {'over', redis.call('HLEN', p .. 'done'), redis.call('HLEN', p .. 'dead')}
end
return {'none'}
"""

# worker, about it, number of leases, origin, id, name and bytes of each; then origin and name of each token.
# Returns 1 or 0 for each lease: 0 is lost, and the worker must not touch that entry any more.
RENEW = """
local me, count = ARGV[1], tonumber(ARGV[3])
local held = {}
if redis.call('EXISTS', p .. 'meta') == 1 then
  redis.call('HSET', p .. 'workers', me, ARGV[2])
  redis.call('ZADD', p .. 'alive', now(), me)
end
for i = 4, count * 4, 4 do
  local origin, id, name, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  -- XCLAIM alone would steal back what was lost.
  if mine(origin, id, me) then
    redis.call('XCLAIM', stream(origin), 'workers', me, 0, id, 'IDLE', 0, 'JUSTID')
    grown(origin, name, bytes)
    held[#held + 1] = 1
  else
    held[#held + 1] = 0
  end
end
local lapses = now() + tonumber(redis.call('HGET', p .. 'meta', 'lease') or 0)
for i = 4 + count * 4, #ARGV, 2 do
  redis.call('ZADD', p .. 't:' .. ARGV[i], 'XX', lapses, ARGV[i + 1])
end
return held
"""

# worker, what became of it, origin, id, name, bytes, and what that outcome needs. Returns 0 when the lease was lost, 2
# when the failure is this worker's own, because the origin serves others.
SETTLE = """
local me, outcome, origin, id, name, bytes = unpack(ARGV, 1, 6)
if not mine(origin, id, me) then
  return 0
end
local lease = tonumber(redis.call('HGET', p .. 'meta', 'lease'))
grown(origin, name, bytes)

-- Nobody is to blame: the next to ask has it, at once.
local function back()
  redis.call('XCLAIM', stream(origin), 'workers', 'nobody', 0, id, 'IDLE', lease, 'JUSTID')
  redis.call('HINCRBY', p .. 'tries', name, -1)
end

if outcome == 'back' then
  back()
  return 1
end
if outcome == 'later' then
  local delay, entry, why, may_be_here_only = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
  local served = tonumber(redis.call('HGET', p .. 'served', origin) or 0)
  if may_be_here_only == '1' and now() - served < 2 * lease then
    back()
    return 2
  end
  redis.call('ZADD', p .. 'later', now() + tonumber(delay), origin .. '\\n' .. name .. '\\n' .. entry)
  redis.call('HSET', p .. 'why', name, why)
else
  redis.call('HSET', p .. outcome, name, ARGV[7])
  if outcome == 'done' then
    redis.call('HSET', p .. 'served', origin, now())
  end
  forget(name)
end
remove(origin, id)
return 1
"""

# origin, milliseconds.
CLOSE_ORIGIN = """
local until_ = now() + tonumber(ARGV[2])
if until_ > tonumber(redis.call('HGET', p .. 'closed', ARGV[1]) or 0) then
  redis.call('HSET', p .. 'closed', ARGV[1], until_)
end
"""

# origin, token. A further connection counts against the origin's cap like an entry does. Returns 1 when there is one.
CONNECT = """
local at = now()
if redis.call('EXISTS', p .. 'meta') == 0 or used(ARGV[1], at) >= cap(ARGV[1]) then
  return 0
end
redis.call('ZADD', p .. 't:' .. ARGV[1], at + tonumber(redis.call('HGET', p .. 'meta', 'lease')), ARGV[2])
return 1
"""

# origin, token.
DISCONNECT = """
redis.call('ZREM', p .. 't:' .. ARGV[1], ARGV[2])
"""

# name, … of dead letters. Returns how many are in the queue again.
RETRY = """
local count = 0
for _, name in ipairs(ARGV) do
  local letter = redis.call('HGET', p .. 'dead', name)
  if letter then
    letter = cjson.decode(letter)
    add(letter.origin, name, letter.entry)
    redis.call('HDEL', p .. 'dead', name)
    count = count + 1
  end
end
return count
"""

# Returns {origin, left, leased, tokens, cap, milliseconds closed, {{worker, how many it has leased}, …}} of each origin
# with entries left.
HOSTS = """
local at, rows = now(), {}
for _, origin in ipairs(redis.call('SMEMBERS', p .. 'hosts')) do
  local closed = tonumber(redis.call('HGET', p .. 'closed', origin) or 0) - at
  local pending = redis.call('XPENDING', stream(origin), 'workers')
  local leases = pending[1]
  rows[#rows + 1] = {origin, redis.call('XLEN', stream(origin)), leases, used(origin, at) - leases, cap(origin),
    math.max(0, closed), pending[4] or {}}
end
return rows
"""

DROP = """
for _, origin in ipairs(redis.call('SMEMBERS', p .. 'hosts')) do
  redis.call('DEL', stream(origin), p .. 't:' .. origin)
end
for _, key in ipairs({'meta', 'hosts', 'later', 'caps', 'closed', 'served', 'known', 'done', 'dead', 'tries', 'best',
    'why', 'workers', 'alive'}) do
  redis.call('DEL', p .. key)
end
"""

SCRIPTS = {
    name: COMMON + body
    for name, body in {
        "push": PUSH,
        "join": JOIN,
        "leave": LEAVE,
        "claim": CLAIM,
        "renew": RENEW,
        "settle": SETTLE,
        "close_origin": CLOSE_ORIGIN,
        "connect": CONNECT,
        "disconnect": DISCONNECT,
        "retry": RETRY,
        "hosts": HOSTS,
        "drop": DROP,
    }.items()
}


def prefix(job: str) -> str:
    """Of all keys of a job."""
    return f"{{bulk:{job}}}:"


# The jobs that a Redis has, for messages.
JOBS = "bulk:jobs"
