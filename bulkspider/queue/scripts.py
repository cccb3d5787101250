"""What the queue keeps in Redis, and the scripts that change it: each one is atomic, so no worker sees half of a step.

The keys of a job share a prefix in braces, so that they lie on one node of a cluster:

    {bulk:JOB}:meta     hash    when it was made, the default cap, the longest lease of its workers; order: pause, drain
                                or cancel; push:LIST: of a push that has not ended, when it was last heard of
    {bulk:JOB}:hosts    set     origins (host:port) that have entries left
    {bulk:JOB}:q:ORIGIN stream  one message per unfinished entry (n: its name, e: the entry); group `workers`
    {bulk:JOB}:t:ORIGIN zset    tokens of further connections, by the time at which they lapse
    {bulk:JOB}:later    zset    entries that wait for their next try, by its time
    {bulk:JOB}:caps     hash    origin or host name -> how many at once, where it is not the default
    {bulk:JOB}:closed   hash    origin -> until when it asked to be left alone (Retry-After)
    {bulk:JOB}:served   hash    origin -> when it last gave somebody bytes
    {bulk:JOB}:down     hash    origin -> since when nobody has reached it who tried, and the worker that said so first,
                                or * for several
    {bulk:JOB}:known    hash    name -> key of its URL, for all entries ever pushed
    {bulk:JOB}:done     hash    name -> what became of it
    {bulk:JOB}:dead     hash    name -> why it was given up, and the entry
    {bulk:JOB}:tries    hash    name -> how often it was taken since its part last grew
    {bulk:JOB}:best     hash    name -> the most bytes its part ever had
    {bulk:JOB}:why      hash    name -> why its last try failed
    {bulk:JOB}:failed   hash    name -> the worker at which it failed last
    {bulk:JOB}:workers  hash    worker -> about it;  {bulk:JOB}:alive  zset  worker -> when it was last heard of

    bulk:dropped:JOB    text    the job was dropped, not lost: for its workers, for a minute

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

-- Milliseconds, the longest of all workers; false when there is no job or no worker yet.
local function lease_of_job()
  local lease = redis.call('HGET', p .. 'meta', 'lease')
  return lease and tonumber(lease)
end

local dropped = 'bulk:dropped:' .. p:match(':(.*)}')

-- Leases that have run out or were given back: they count as pending, and nobody works on them.
local function idle(origin)
  local lease = lease_of_job()
  if not lease or redis.call('EXISTS', stream(origin)) == 0 then
    return {}
  end
  return redis.call('XPENDING', stream(origin), 'workers', 'IDLE', lease, '-', '+', 10000)
end

-- What every entry that was ever pushed is now: known = done + dead + left, or some were lost.
local function counts()
  local left = redis.call('ZCARD', p .. 'later')
  for _, origin in ipairs(redis.call('SMEMBERS', p .. 'hosts')) do
    left = left + redis.call('XLEN', stream(origin))
  end
  return {redis.call('HLEN', p .. 'known'), redis.call('HLEN', p .. 'done'), redis.call('HLEN', p .. 'dead'), left}
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
  for _, key in ipairs({'tries', 'best', 'why', 'failed'}) do
    redis.call('HDEL', p .. key, name)
  end
end

-- How many workers live beside this one.
local function others(me)
  local since = now() - (lease_of_job() or 0)
  local seen = redis.call('ZSCORE', p .. 'alive', me)
  return redis.call('ZCOUNT', p .. 'alive', since, '+inf') - (seen and tonumber(seen) >= since and 1 or 0)
end

local function serves(origin)
  redis.call('HSET', p .. 'served', origin, now())
  redis.call('HDEL', p .. 'down', origin)
end

-- A part that grew has earned its entry new patience.
local function grown(origin, name, bytes)
  if tonumber(bytes) > tonumber(redis.call('HGET', p .. 'best', name) or 0) then
    redis.call('HSET', p .. 'best', name, bytes)
    serves(origin)
    redis.call('HDEL', p .. 'tries', name)
  end
end
"""

# cap, name of the list, then origin, name, key, entry of each. Returns how many are new. First come, first served, so
# largest first. A push of no entries is its end.
PUSH = """
redis.call('HSETNX', p .. 'meta', 'made', now())
redis.call('HSETNX', p .. 'meta', 'cap', ARGV[1])
redis.call('DEL', dropped)
if #ARGV == 2 then
  redis.call('HDEL', p .. 'meta', 'push:' .. ARGV[2])
  return 0
end
redis.call('HSET', p .. 'meta', 'push:' .. ARGV[2], now())
local count = 0
for i = 3, #ARGV, 4 do
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
if tonumber(ARGV[3]) > (lease_of_job() or 0) then
  redis.call('HSET', p .. 'meta', 'lease', ARGV[3])
end
redis.call('HSET', p .. 'workers', ARGV[1], ARGV[2])
redis.call('ZADD', p .. 'alive', now(), ARGV[1])
-- Workers that ended without leaving are forgotten in the end.
local lease = lease_of_job()
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', p .. 'alive', '-inf', now() - 10 * lease, 'LIMIT', 0, 100)) do
  redis.call('ZREM', p .. 'alive', worker)
  redis.call('HDEL', p .. 'workers', worker)
end
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
# Returns {kind, …}: entry (origin, id, name, entry, tries, most bytes so far, the worker at which it failed last),
# none, over (done, dead), owes (how many entries were lost), unfinished (a push of this list was broken off), drain or
# cancel (left), dropped, gone.
CLAIM = """
local me, most = ARGV[1], tonumber(ARGV[2])
local at = now()
local lease = lease_of_job()
if not lease then
  return {redis.call('EXISTS', dropped) == 1 and 'dropped' or 'gone'}
end
local order = redis.call('HGET', p .. 'meta', 'order')
if order == 'drain' or order == 'cancel' then
  return {order, counts()[4]}
elseif order == 'pause' then
  return {'none'}
end
local beside, late = others(me) > 0, at - lease
for _, waiting in ipairs(redis.call('ZRANGEBYSCORE', p .. 'later', '-inf', at, 'LIMIT', 0, 16)) do
  local origin, name, entry = waiting:match('^([^\\n]*)\\n([^\\n]*)\\n(.*)$')
  -- What failed here is for others first, as long as they live and take it within the time of a lease.
  local mine = beside and redis.call('HGET', p .. 'failed', name) == me
  if not mine or tonumber(redis.call('ZSCORE', p .. 'later', waiting)) < late then
    redis.call('ZREM', p .. 'later', waiting)
    add(origin, name, entry)
  end
end
local shut = {}
for i = 4, #ARGV do
  shut[ARGV[i]] = true
end

local function take(origin)
  local q = stream(origin)
  local nobodys = idle(origin)
  local stale = nobodys[1]
  if used(origin, at) - #nobodys >= cap(origin) then
    return nil
  end
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
        return {'entry', origin, id, name, entry, tries, best, redis.call('HGET', p .. 'failed', name) or ''}
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
  local meta = redis.call('HGETALL', p .. 'meta')
  for i = 1, #meta, 2 do
    if meta[i]:sub(1, 5) == 'push:' then
      -- Somebody is still pushing, or was, and has not been heard of for the time of a lease.
      if at - tonumber(meta[i + 1]) < lease then
        return {'none'}
      end
      return {'unfinished', meta[i]:sub(6)}
    end
  end
  local known, done, dead, left = unpack(counts())
  if done + dead + left < known then
    return {'owes', known - done - dead - left}
  end
  return {'over', done, dead}
end
return {'none'}
"""

# worker, about it, number of leases, origin, id, name and bytes of each; then origin and name of each token.
# Returns 1 or 0 for each lease: 0 is lost, and the worker must not touch that entry any more. Then 1
# when the job is cancelled, and how many other workers live.
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
local lapses = now() + (lease_of_job() or 0)
for i = 4 + count * 4, #ARGV, 2 do
  redis.call('ZADD', p .. 't:' .. ARGV[i], 'XX', lapses, ARGV[i + 1])
end
held[#held + 1] = redis.call('HGET', p .. 'meta', 'order') == 'cancel' and 1 or 0
held[#held + 1] = others(me)
return held
"""

# worker, what became of it, origin, id, name, bytes, and what that outcome needs. Returns 0 when the lease was lost. Of
# `away` (the origin cannot be reached from here): 2 when it serves others, 3 when others are still to try, 4 when they
# have, and the entry was given up.
#
# What counts against an entry is failures at different workers: of those in a row at one worker only the first, unless
# no other worker lived. Then it is as in a run of a list.
SETTLE = """
local me, outcome, origin, id, name, bytes = unpack(ARGV, 1, 6)
if not mine(origin, id, me) then
  return 0
end
local lease = lease_of_job()
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
local function later(counts)
  local delay, entry, why = ARGV[7], ARGV[8], ARGV[9]
  if not counts or (redis.call('HGET', p .. 'failed', name) == me and others(me) > 0) then
    redis.call('HINCRBY', p .. 'tries', name, -1)
  end
  redis.call('ZADD', p .. 'later', now() + tonumber(delay), origin .. '\\n' .. name .. '\\n' .. entry)
  redis.call('HSET', p .. 'why', name, why)
  redis.call('HSET', p .. 'failed', name, me)
  remove(origin, id)
end

if outcome == 'away' and others(me) > 0 then
  local letter, patience, stranger_patience, unreached = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
  local at, served = now(), redis.call('HGET', p .. 'served', origin)
  if served and at - tonumber(served) < 2 * lease then
    back()
    return 2
  end
  local down = redis.call('HGET', p .. 'down', origin)
  if not down then
    down = (at - tonumber(unreached)) .. ' ' .. me
    redis.call('HSET', p .. 'down', origin, down)
  end
  local since, first = down:match('^(%S+) (.*)$')
  if first ~= me and first ~= '*' then
    first = '*'
    redis.call('HSET', p .. 'down', origin, since .. ' *')
  end
  if first ~= '*' or at - tonumber(since) < (served and patience or stranger_patience) then
    later(false)
    return 3
  end
  redis.call('HSET', p .. 'dead', name, letter)
  forget(name)
  remove(origin, id)
  return 4
end
if outcome == 'away' or outcome == 'later' then
  later(true)
  return 1
end
redis.call('HSET', p .. outcome, name, ARGV[7])
if outcome == 'done' then
  serves(origin)
end
forget(name)
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
if not lease_of_job() or used(ARGV[1], at) - #idle(ARGV[1]) >= cap(ARGV[1]) then
  return 0
end
redis.call('ZADD', p .. 't:' .. ARGV[1], at + lease_of_job(), ARGV[2])
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
    redis.call('HDEL', p .. 'down', letter.origin)
    redis.call('HDEL', p .. 'dead', name)
    count = count + 1
  end
end
return count
"""

# Returns {{known, done, dead, left}, later, now, rows}; a row is {origin, left, leased, tokens, cap, for how many
# milliseconds it is closed, {worker, how many it has leased, …}}, one for each origin with entries left. What was given
# back, or whose worker is gone, is not leased.
STATUS = """
local at, rows = now(), {}
for _, origin in ipairs(redis.call('SMEMBERS', p .. 'hosts')) do
  local closed = tonumber(redis.call('HGET', p .. 'closed', origin) or 0) - at
  local holders, leases = {}, 0
  local pending = redis.call('XPENDING', stream(origin), 'workers')
  for _, holder in ipairs(pending[4] or {}) do
    holders[holder[1]] = tonumber(holder[2])
    leases = leases + tonumber(holder[2])
  end
  local tokens = used(origin, at) - leases
  for _, message in ipairs(idle(origin)) do
    holders[message[2]] = holders[message[2]] - 1
    leases = leases - 1
  end
  local held = {}
  for worker, count in pairs(holders) do
    held[#held + 1] = worker
    held[#held + 1] = count
  end
  rows[#rows + 1] = {origin, redis.call('XLEN', stream(origin)), leases, tokens, cap(origin), math.max(0, closed), held}
end
return {counts(), redis.call('ZCARD', p .. 'later'), at, rows}
"""

# pause, drain, cancel, or an empty text to go on.
ORDER = """
if ARGV[1] == '' then
  redis.call('HDEL', p .. 'meta', 'order')
else
  redis.call('HSET', p .. 'meta', 'order', ARGV[1])
end
"""

# Ends the job for its workers, at once. Its other keys are deleted afterwards, some at a time.
DROP = """
if redis.call('ZCOUNT', p .. 'alive', now() - (lease_of_job() or 0), '+inf') > 0 then
  redis.call('SET', dropped, '1', 'EX', 60)
end
redis.call('DEL', p .. 'meta')
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
        "status": STATUS,
        "order": ORDER,
        "drop": DROP,
    }.items()
}


def prefix(job: str) -> str:
    """Of all keys of a job."""
    return f"{{bulk:{job}}}:"


# The jobs that a Redis has, for messages.
JOBS = "bulk:jobs"
