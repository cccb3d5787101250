"""The keys of a queue in Redis, and the scripts that change them: each is atomic, so no worker sees half of a step.

The keys of a job share a prefix in braces, so that they lie on one node of a cluster:

    {bulk:JOB}:meta     hash    when it was made, the default cap, the longest lease of its workers, the `form` of these
                                keys; number: of the lease given last; order: pause, drain or cancel; push:LIST: of a
                                push that has not ended, when it was last heard of
    {bulk:JOB}:known    hash    name -> key of its URL, for all entries ever pushed; while it is left: key, priority,
                                origin and entry, with a blank between two of them
    {bulk:JOB}:prio     zset    the priorities that entries have
    {bulk:JOB}:e:PRIORITY:ORIGIN  list  names of entries that nobody has, in the order in which they are given
    {bulk:JOB}:hosts    set     origins (host:port) that have such entries
    {bulk:JOB}:ready:PRIORITY     set   those of them at which one may begin, as far as is known: a claim that finds
                                it otherwise takes the origin out, and what changes it puts it in again
    {bulk:JOB}:waits:SEAT  set  origins that wait for a place at SEAT
    {bulk:JOB}:held     hash    name -> number of its lease, seat, origin, worker
    {bulk:JOB}:has:WORKER set   names that it holds; also some that it held once, when keys were lost
    {bulk:JOB}:tokens   hash    further connection -> its seat
    {bulk:JOB}:leases   zset    e and a name, or t and a token, by the time at which it lapses
    {bulk:JOB}:used     hash    seat -> leases and tokens out
    {bulk:JOB}:via      hash    origin -> the one that serves its files, behind a redirect
    {bulk:JOB}:again    zset    names of entries that wait for their next try, by its time
    {bulk:JOB}:caps     hash    origin or host name -> how many at once, where it is not the default
    {bulk:JOB}:shut     zset    origins, by the time until which they asked to be left alone (Retry-After)
    {bulk:JOB}:served   hash    origin -> when it last gave somebody bytes
    {bulk:JOB}:down     hash    origin -> since when nobody has reached it who tried, and the worker that said so first,
                                or * for several
    {bulk:JOB}:done     hash    name -> what became of it
    {bulk:JOB}:bytes    hash    done, left: of the entries whose sizes are known
    {bulk:JOB}:dead     hash    name -> why it was given up, and the entry
    {bulk:JOB}:tries    hash    name -> how often it was taken since its part last grew
    {bulk:JOB}:best     hash    name -> the most bytes its part ever had
    {bulk:JOB}:why      hash    name -> why its last try failed
    {bulk:JOB}:failed   hash    name -> the worker at which it failed last
    {bulk:JOB}:workers  hash    worker -> about it;  {bulk:JOB}:alive  zset  worker -> when it was last heard of

    bulk:dropped:JOB    text    the job was dropped, not lost: for its workers, for a minute

The seat of an entry is the origin whose cap it counts against: its own, or the one that serves its files, where that is
known. A lease is a line in `held`; its number and its worker are the fencing token, and a place is taken at its seat
until it ends or lapses. So the connections of a seat are counted exactly, and what a claim costs does not depend on how
many hosts there are. Commands of Redis 6.2 suffice. Times are the server's, in milliseconds; the workers' clocks need
not agree.
"""

from __future__ import annotations

# Of the keys above. A job without one is of an earlier form, and is changed into this one (`UPGRADE`).
FORM = 2

COMMON = """
local p = KEYS[1]
local call = redis.call

local function now()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function queued(priority, origin)
  return p .. 'e:' .. priority .. ':' .. origin
end

-- Milliseconds, the longest of all workers; false when there is no job or no worker yet.
local function lease_of_job()
  local lease = call('HGET', p .. 'meta', 'lease')
  return lease and tonumber(lease)
end

local function lease_is(lease)
  if tonumber(lease) > (lease_of_job() or 0) then
    call('HSET', p .. 'meta', 'lease', lease)
  end
end

local dropped = 'bulk:dropped:' .. p:match(':(.*)}')

local priorities_
local function priorities()
  priorities_ = priorities_ or call('ZREVRANGE', p .. 'prio', 0, -1)
  return priorities_
end

-- A script ends its loops, and goes on when it is called again, once it has looked at so many keys of origins: Redis
-- serves nobody else meanwhile.
local looked, looked_most = 0, 2000

-- Something may be different at this origin: the next claim looks at it.
local function look(origin)
  local any = false
  looked = looked + #priorities()
  for _, priority in ipairs(priorities()) do
    if call('EXISTS', queued(priority, origin)) == 1 then
      call('SADD', p .. 'ready:' .. priority, origin)
      any = true
    end
  end
  if not any then
    call('SREM', p .. 'hosts', origin)
  end
end

-- The first entry that nobody has. (One that is not the first finds its origin ready, or waiting for what makes it so.)
local function begins(priority, origin)
  call('SADD', p .. 'hosts', origin)
  call('SADD', p .. 'ready:' .. priority, origin)
end

-- Puts an entry that is known into the queue: `LPUSH` for the next to ask, `RPUSH` behind all others.
local function put(name, row, push)
  local priority, origin = row:match('^%S+ (%S+) (%S+) ')
  if call(push, queued(priority, origin), name) == 1 then
    begins(priority, origin)
  end
end

local function full_row(name)
  local row = call('HGET', p .. 'known', name)
  return row and row:find(' ', 1, true) and row
end

local function size_of(row)
  return tonumber(row:match(',"size":(%d+)') or 0)
end

-- The entry is not left any more: its key alone is kept.
local function close(name)
  local row = full_row(name)
  if row then
    -- Not `-size`: for Redis 7.0 -0 is no integer.
    call('HINCRBY', p .. 'bytes', 'left', 0 - size_of(row))
    call('HSET', p .. 'known', name, row:match('^%S+'))
  end
end

-- A place at this seat is free. Some of those that wait for one are looked at; whoever finds no use for it goes.
local function free(seat)
  if call('HINCRBY', p .. 'used', seat, -1) <= 0 then
    call('HDEL', p .. 'used', seat)
  end
  for _, origin in ipairs(call('SPOP', p .. 'waits:' .. seat, 16)) do
    look(origin)
  end
end

-- number, seat, origin and worker of a lease; nil for none.
local function lease_on(name)
  local held = call('HGET', p .. 'held', name)
  if held then
    return held:match('^(%S+) (%S+) (%S+) (.*)$')
  end
end

local function mine(name, number, me)
  local number_, seat, origin, worker = lease_on(name)
  return number_ == number and worker == me
end

local function end_lease(name)
  local _, seat, _, worker = lease_on(name)
  call('HDEL', p .. 'held', name)
  call('ZREM', p .. 'leases', 'e' .. name)
  if seat then
    call('SREM', p .. 'has:' .. worker, name)
    free(seat)
  end
end

-- The next to ask has it.
local function give_back(name)
  end_lease(name)
  local row = full_row(name)
  if row then
    put(name, row, 'LPUSH')
  end
end

local function end_token(token)
  local seat = call('HGET', p .. 'tokens', token)
  call('ZREM', p .. 'leases', 't' .. token)
  if seat then
    call('HDEL', p .. 'tokens', token)
    free(seat)
  end
end

-- Some of a sorted set whose time has come.
local function due(key, at, ...)
  return call('ZRANGEBYSCORE', p .. key, '-inf', at, 'LIMIT', 0, 50, ...)
end

-- Ends some leases that nobody has renewed; false when there are none.
local function lapse(at)
  local lapsed = due('leases', at)
  for _, one in ipairs(lapsed) do
    if looked > looked_most then
      break
    elseif one:sub(1, 1) == 'e' then
      give_back(one:sub(2))
    else
      end_token(one:sub(2))
    end
  end
  return #lapsed > 0
end

-- How many entries were ever pushed, are done, were given up.
local function counts()
  return call('HLEN', p .. 'known'), call('HLEN', p .. 'done'), call('HLEN', p .. 'dead')
end

local function cap(origin)
  local caps = call('HMGET', p .. 'caps', origin, (origin:gsub(':%d+$', '')))
  return tonumber(caps[1] or caps[2] or call('HGET', p .. 'meta', 'cap'))
end

local function seat_of(origin)
  return call('HGET', p .. 'via', origin) or origin
end

local function has_room(seat)
  return tonumber(call('HGET', p .. 'used', seat) or 0) < cap(seat)
end

local function shut_until(origin)
  return tonumber(call('ZSCORE', p .. 'shut', origin) or 0)
end

local function forget(name)
  for _, key in ipairs({'tries', 'best', 'why', 'failed'}) do
    call('HDEL', p .. key, name)
  end
end

-- How many workers live beside this one.
local function others(me)
  local since = now() - (lease_of_job() or 0)
  local seen = call('ZSCORE', p .. 'alive', me)
  return call('ZCOUNT', p .. 'alive', since, '+inf') - (seen and tonumber(seen) >= since and 1 or 0)
end

local function serves(origin)
  call('HSET', p .. 'served', origin, now())
  call('HDEL', p .. 'down', origin)
end

-- A part that grew has earned its entry new patience.
local function grown(origin, name, bytes)
  if tonumber(bytes) > tonumber(call('HGET', p .. 'best', name) or 0) then
    call('HSET', p .. 'best', name, bytes)
    serves(origin)
    call('HDEL', p .. 'tries', name)
  end
end

-- Leases of this worker that it does not know of: it never heard the answer to its claim. Nobody is to blame.
local function give_back_all_but(me, known)
  local has = p .. 'has:' .. me
  for _, name in ipairs(call('SMEMBERS', has)) do
    local number, _, _, worker = lease_on(name)
    if worker ~= me then
      call('SREM', has, name)
    elseif known[name] ~= number then
      give_back(name)
      call('HINCRBY', p .. 'tries', name, -1)
    end
  end
end
"""

# name, key, … Returns the place of the first entry that is known with another key, false for none.
CHECK = """
for i = 1, #ARGV, 2 do
  local row = call('HGET', p .. 'known', ARGV[i])
  if row and row:match('^%S+') ~= ARGV[i + 1] then
    return (i - 1) / 2
  end
end
return false
"""

# cap, name of the list, priority, then origin, name, row of each. Returns how many are new. First come, first served,
# so largest first. A push of no entries is its end.
PUSH = """
call('HSETNX', p .. 'meta', 'made', now())
call('HSETNX', p .. 'meta', 'cap', ARGV[1])
call('HSETNX', p .. 'meta', 'form', 2)
call('DEL', dropped)
if #ARGV == 3 then
  call('HDEL', p .. 'meta', 'push:' .. ARGV[2])
  return 0
end
call('HSET', p .. 'meta', 'push:' .. ARGV[2], now())
local priority = ARGV[3]
call('ZADD', p .. 'prio', priority, priority)
local count, known, of_origin, bytes = 0, p .. 'known', {}, 0
for i = 4, #ARGV, 3 do
  local name = ARGV[i + 1]
  if call('HSETNX', known, name, ARGV[i + 2]) == 1 then
    local names = of_origin[ARGV[i]]
    if names then
      names[#names + 1] = name
    else
      of_origin[ARGV[i]] = {name}
    end
    count = count + 1
    bytes = bytes + size_of(ARGV[i + 2])
  end
end
call('HINCRBY', p .. 'bytes', 'left', string.format('%.0f', bytes))
for origin, names in pairs(of_origin) do
  if call('RPUSH', queued(priority, origin), unpack(names)) == #names then
    begins(priority, origin)
  end
end
return count
"""

# worker, about it, its lease, then name and number of each lease that it knows of. To be called before it asks for
# anything on a new connection. Returns false when there is no such job.
JOIN = """
local me = ARGV[1]
if call('EXISTS', p .. 'meta') == 0 then
  return false
end
lease_is(ARGV[3])
call('HSET', p .. 'workers', me, ARGV[2])
call('ZADD', p .. 'alive', now(), me)
local known = {}
for i = 4, #ARGV, 2 do
  known[ARGV[i]] = ARGV[i + 1]
end
give_back_all_but(me, known)
-- Workers that ended without leaving are forgotten in the end.
local lease = lease_of_job()
for _, worker in ipairs(call('ZRANGEBYSCORE', p .. 'alive', '-inf', now() - 10 * lease, 'LIMIT', 0, 100)) do
  call('ZREM', p .. 'alive', worker)
  call('HDEL', p .. 'workers', worker)
  call('DEL', p .. 'has:' .. worker)
end
return true
"""

# worker. It has told everything; what it still holds it does not know of.
LEAVE = """
give_back_all_but(ARGV[1], {})
call('HDEL', p .. 'workers', ARGV[1])
call('ZREM', p .. 'alive', ARGV[1])
"""

# worker, its lease, most tries, how many, how many of one origin at once, number of origins at which nothing may begin;
# these; then origin and number of those that the worker has of it.
# Returns {kind, …}: entries ({origin, number of the lease, name, entry, tries, most bytes so far, the worker at which
# it failed last, seat}, …), again (there may be more to see), none, over (done, dead), owes (how many entries were
# lost), unfinished (a push of this list was broken off), pause, drain or cancel (left), dropped, gone.
CLAIM = """
local me, most, wanted, per_origin = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local shuts = tonumber(ARGV[6])
local at = now()
if call('EXISTS', p .. 'meta') == 1 then
  lease_is(ARGV[2])
end
local lease = lease_of_job()
if not lease then
  return {call('EXISTS', dropped) == 1 and 'dropped' or 'gone'}
end
local order = call('HGET', p .. 'meta', 'order')
if order == 'drain' or order == 'cancel' then
  local known, done, dead = counts()
  return {order, known - done - dead}
elseif order == 'pause' then
  return {'pause'}
end
lapse(at)
local beside, late = others(me) > 0, at - lease
local waiting = due('again', at, 'WITHSCORES')
for i = 1, #waiting, 2 do
  local name = waiting[i]
  -- What failed here is for others first, as long as they live and take it within the time of a lease.
  local mine = beside and call('HGET', p .. 'failed', name) == me
  if not mine or tonumber(waiting[i + 1]) < late then
    call('ZREM', p .. 'again', name)
    local row = full_row(name)
    if row then
      put(name, row, 'RPUSH')
    end
  end
end
for _, origin in ipairs(due('shut', at)) do
  if looked > looked_most then
    break
  end
  call('ZREM', p .. 'shut', origin)
  look(origin)
end
local shut, had = {}, {}
for i = 7, 6 + shuts do
  shut[ARGV[i]] = true
end
for i = 7 + shuts, #ARGV, 2 do
  had[ARGV[i]] = tonumber(ARGV[i + 1])
  if had[ARGV[i]] >= per_origin then
    shuts = shuts + 1
  end
end

local got, tried = {'entries'}, 0

-- The next entry of this origin; false when none may begin now.
local function take(priority, origin)
  local ready = p .. 'ready:' .. priority
  local seat = seat_of(origin)
  if not has_room(seat) or (seat ~= origin and cap(origin) == 0) then
    call('SREM', ready, origin)
    call('SADD', p .. 'waits:' .. seat, origin)
    return false
  elseif shut_until(origin) > at then
    call('SREM', ready, origin)
    return false
  end
  while true do
    local name = call('LPOP', queued(priority, origin))
    if not name then
      call('SREM', ready, origin)
      look(origin)
      -- The place is for others that wait for one there.
      for _, other in ipairs(call('SPOP', p .. 'waits:' .. seat, 1)) do
        look(other)
      end
      return false
    end
    local row = full_row(name)
    if row then
      local entry = row:match('^%S+ %S+ %S+ (.*)$')
      local tries = call('HINCRBY', p .. 'tries', name, 1)
      if tries <= most then
        local number = call('HINCRBY', p .. 'meta', 'number', 1)
        call('HSET', p .. 'held', name, number .. ' ' .. seat .. ' ' .. origin .. ' ' .. me)
        call('SADD', p .. 'has:' .. me, name)
        call('ZADD', p .. 'leases', at + lease, 'e' .. name)
        call('HINCRBY', p .. 'used', seat, 1)
        local told = call('HMGET', p .. 'best', name)[1] or '0'
        return {origin, tostring(number), name, entry, tries, told, call('HGET', p .. 'failed', name) or '', seat}
      end
      local why = call('HGET', p .. 'why', name) or 'its workers died'
      call('HSET', p .. 'dead', name, cjson.encode({
        origin = origin, entry = entry, code = 'fruitless',
        reason = string.format('taken %d times, and its part did not grow; at last: %s', most, why)}))
      close(name)
      forget(name)
    end
  end
end

for _, priority in ipairs(priorities()) do
  local found = true
  while found and #got <= wanted and tried < 300 and looked <= looked_most do
    found = false
    -- One of each, in any order, so that no host is worked off before the next.
    for _, origin in ipairs(call('SRANDMEMBER', p .. 'ready:' .. priority, wanted + 1 - #got + shuts)) do
      if #got > wanted or looked > looked_most then
        break
      end
      if not shut[origin] and (had[origin] or 0) < per_origin then
        tried = tried + 1
        local entry = take(priority, origin)
        if entry then
          got[#got + 1] = entry
          had[origin] = (had[origin] or 0) + 1
          if had[origin] == per_origin then
            shuts = shuts + 1
          end
        end
        found = true
      end
    end
  end
end
if #got > 1 then
  return got
elseif tried >= 300 or looked > looked_most then
  return {'again'}
end
-- Nothing should wait unseen; if something does, it is seen soon.
for _, origin in ipairs(call('SRANDMEMBER', p .. 'hosts', 4)) do
  look(origin)
end
if call('ZCARD', p .. 'leases') == 0 then
  call('DEL', p .. 'held', p .. 'used', p .. 'tokens')
end
if call('SCARD', p .. 'hosts') == 0 and call('ZCARD', p .. 'again') == 0 and call('HLEN', p .. 'held') == 0 then
  local meta = call('HGETALL', p .. 'meta')
  for i = 1, #meta, 2 do
    if meta[i]:sub(1, 5) == 'push:' then
      -- Somebody is still pushing, or was, and has not been heard of for the time of a lease.
      if at - tonumber(meta[i + 1]) < lease then
        return {'none'}
      end
      return {'unfinished', meta[i]:sub(6)}
    end
  end
  local known, done, dead = counts()
  if done + dead < known then
    return {'owes', known - done - dead}
  end
  return {'over', done, dead}
end
return {'none'}
"""

# worker, about it, its lease, number of leases, origin, number, name and bytes of each; then each token.
# Returns 1 or 0 for each lease: 0 is lost, and the worker must not touch that entry any more. Then 1
# when the job is cancelled, and how many other workers live.
RENEW = """
local me, count = ARGV[1], tonumber(ARGV[4])
local kept = {}
if call('EXISTS', p .. 'meta') == 1 then
  lease_is(ARGV[3])
  call('HSET', p .. 'workers', me, ARGV[2])
  call('ZADD', p .. 'alive', now(), me)
end
local lapses = now() + (lease_of_job() or 0)
for i = 5, count * 4 + 1, 4 do
  local origin, number, name, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if mine(name, number, me) then
    call('ZADD', p .. 'leases', lapses, 'e' .. name)
    grown(origin, name, bytes)
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
for i = 5 + count * 4, #ARGV do
  call('ZADD', p .. 'leases', 'XX', lapses, 't' .. ARGV[i])
end
kept[#kept + 1] = call('HGET', p .. 'meta', 'order') == 'cancel' and 1 or 0
kept[#kept + 1] = others(me)
return kept
"""

# worker, what became of it, origin, number, name, bytes, and what that outcome needs. Returns 0 when the lease was
# lost. Of `away` (the origin cannot be reached from here): 2 when it serves others, 3 when others are still to try, 4
# when they have, and the entry was given up.
#
# What counts against an entry is failures at different workers: of those in a row at one worker only the first, unless
# no other worker lived. Then it is as in a run of a list.
SETTLE = """
local me, outcome, origin, number, name, bytes = unpack(ARGV, 1, 6)
if not mine(name, number, me) then
  return 0
end
local lease = lease_of_job()
grown(origin, name, bytes)

-- Nobody is to blame: the next to ask has it, at once.
local function back()
  give_back(name)
  call('HINCRBY', p .. 'tries', name, -1)
end

if outcome == 'back' then
  back()
  return 1
end
local function later(counts)
  local delay, why = ARGV[7], ARGV[8]
  if not counts or (call('HGET', p .. 'failed', name) == me and others(me) > 0) then
    call('HINCRBY', p .. 'tries', name, -1)
  end
  end_lease(name)
  call('ZADD', p .. 'again', now() + tonumber(delay), name)
  call('HSET', p .. 'why', name, why)
  call('HSET', p .. 'failed', name, me)
end

if outcome == 'away' and others(me) > 0 then
  local letter, patience, stranger_patience, unreached = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12]
  local at, served = now(), call('HGET', p .. 'served', origin)
  if served and at - tonumber(served) < 2 * lease then
    back()
    return 2
  end
  local down = call('HGET', p .. 'down', origin)
  if not down then
    down = (at - tonumber(unreached)) .. ' ' .. me
    call('HSET', p .. 'down', origin, down)
  end
  local since, first = down:match('^(%S+) (.*)$')
  if first ~= me and first ~= '*' then
    first = '*'
    call('HSET', p .. 'down', origin, since .. ' *')
  end
  if first ~= '*' or at - tonumber(since) < (served and patience or stranger_patience) then
    later(false)
    return 3
  end
  call('HSET', p .. 'dead', name, letter)
  end_lease(name)
  close(name)
  forget(name)
  return 4
end
if outcome == 'away' or outcome == 'later' then
  later(true)
  return 1
end
call('HSET', p .. outcome, name, ARGV[7])
if outcome == 'done' then
  serves(origin)
  call('HINCRBY', p .. 'bytes', 'done', ARGV[8])
end
end_lease(name)
close(name)
forget(name)
return 1
"""

# origin, milliseconds.
CLOSE_ORIGIN = """
local until_ = now() + tonumber(ARGV[2])
if until_ > shut_until(ARGV[1]) then
  call('ZADD', p .. 'shut', until_, ARGV[1])
end
"""

# worker, name, number of the lease, origin, the origin that serves the file, and 1 if a redirect leads there. The entry
# counts there from now on, and so do all that are begun then.
SERVED_BY = """
local me, name, number, origin, seat, redirected = unpack(ARGV)
if redirected == '1' then
  if seat == origin then
    call('HDEL', p .. 'via', origin)
  else
    call('HSET', p .. 'via', origin, seat)
  end
end
local _, before = lease_on(name)
if before ~= seat and mine(name, number, me) then
  call('HSET', p .. 'held', name, number .. ' ' .. seat .. ' ' .. origin .. ' ' .. me)
  call('HINCRBY', p .. 'used', seat, 1)
  free(before)
end
"""

# origin, token. A further connection counts against the cap like an entry does. Returns 1 when there is one.
CONNECT = """
local at, seat = now(), seat_of(ARGV[1])
lapse(at)
if not lease_of_job() or not has_room(seat) then
  return 0
end
call('HSET', p .. 'tokens', ARGV[2], seat)
call('ZADD', p .. 'leases', at + lease_of_job(), 't' .. ARGV[2])
call('HINCRBY', p .. 'used', seat, 1)
return 1
"""

# token.
DISCONNECT = """
end_token(ARGV[1])
"""

# name, … of dead letters. Returns how many are in the queue again.
RETRY = """
local count = 0
for _, name in ipairs(ARGV) do
  local letter = call('HGET', p .. 'dead', name)
  if letter then
    letter = cjson.decode(letter)
    local row = (call('HGET', p .. 'known', name) or '-'):match('^%S+') .. ' 0 ' .. letter.origin .. ' ' .. letter.entry
    call('HSET', p .. 'known', name, row)
    call('HINCRBY', p .. 'bytes', 'left', size_of(row))
    call('ZADD', p .. 'prio', 0, '0')
    put(name, row, 'RPUSH')
    call('HDEL', p .. 'down', letter.origin)
    call('HDEL', p .. 'dead', name)
    count = count + 1
  end
end
return count
"""

# origin, … whose cap may be another one now.
LOOK = """
for _, origin in ipairs(ARGV) do
  look(origin)
end
"""

# Returns 1 when there may be more leases that nobody has renewed.
LAPSE = """
return lapse(now()) and 1 or 0
"""

# Returns {known, done, dead, how many wait for their next try, now}.
STATUS = """
local known, done, dead = counts()
return {known, done, dead, call('ZCARD', p .. 'again'), now()}
"""

# origin, … Returns {how many entries nobody has, leases and tokens out, cap, for how many milliseconds it is closed} of
# each.
HOSTS = """
local at, rows = now(), {}
for i, origin in ipairs(ARGV) do
  local waiting = 0
  for _, priority in ipairs(priorities()) do
    waiting = waiting + call('LLEN', queued(priority, origin))
  end
  local used = tonumber(call('HGET', p .. 'used', origin) or 0)
  rows[i] = {waiting, used, cap(origin), math.max(0, shut_until(origin) - at)}
end
return rows
"""

# pause, drain, cancel, or an empty text to go on.
ORDER = """
if ARGV[1] == '' then
  call('HDEL', p .. 'meta', 'order')
else
  call('HSET', p .. 'meta', 'order', ARGV[1])
end
"""

# Ends the job for its workers, at once. Its other keys are deleted afterwards, some at a time.
DROP = """
if call('ZCOUNT', p .. 'alive', now() - (lease_of_job() or 0), '+inf') > 0 then
  call('SET', dropped, '1', 'EX', 60)
end
call('DEL', p .. 'meta')
"""

# Changes some entries of a job of the first form, in which each origin had a stream, q:ORIGIN, of its entries and
# `later` those that waited for their next try. An origin, or none for the latter. Returns how many it has changed: 0 at
# the end.
UPGRADE = """
local count, origin = 0, ARGV[1]
call('ZADD', p .. 'prio', 0, '0')
local function change(origin, name, entry)
  local row = (call('HGET', p .. 'known', name) or '-'):match('^%S+') .. ' 0 ' .. origin .. ' ' .. entry
  call('HSET', p .. 'known', name, row)
  call('HINCRBY', p .. 'bytes', 'left', size_of(row))
  put(name, row, 'RPUSH')
  count = count + 1
end
if origin then
  local stream = p .. 'q:' .. origin
  for _, message in ipairs(call('XRANGE', stream, '-', '+', 'COUNT', 100)) do
    change(origin, message[2][2], message[2][4])
    call('XDEL', stream, message[1])
  end
  if count == 0 then
    call('DEL', stream, p .. 't:' .. origin)
  end
else
  for _, waiting in ipairs(call('ZRANGE', p .. 'later', 0, 99)) do
    change(waiting:match('^([^\\n]*)\\n([^\\n]*)\\n(.*)$'))
    call('ZREM', p .. 'later', waiting)
  end
end
return count
"""

SCRIPTS = {
    name: COMMON + body
    for name, body in {
        "check": CHECK,
        "push": PUSH,
        "join": JOIN,
        "leave": LEAVE,
        "claim": CLAIM,
        "renew": RENEW,
        "settle": SETTLE,
        "close_origin": CLOSE_ORIGIN,
        "served_by": SERVED_BY,
        "connect": CONNECT,
        "disconnect": DISCONNECT,
        "retry": RETRY,
        "look": LOOK,
        "lapse": LAPSE,
        "status": STATUS,
        "hosts": HOSTS,
        "order": ORDER,
        "drop": DROP,
        "upgrade": UPGRADE,
    }.items()
}


def prefix(job: str) -> str:
    """Of all keys of a job."""
    return f"{{bulk:{job}}}:"


# The jobs that a Redis has, for messages.
JOBS = "bulk:jobs"
