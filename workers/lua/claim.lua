-- One poll of a beat replica: renew or take the beat lease, claim what is due, re-issue lost ticks.
-- KEYS: beat lease, due, running, issued, beats, loops
-- ARGV: now, loop prefix, token, lease ttl, identity, re-issue grace, most ticks to claim
-- Returns {0, ms until the lease ends} for a standby, else
--   {1, ms until the next slot, {{name, seq, slot, queue}, ...}, {{name, run, errors, lease end}, ...}, loops known}
local now, prefix, token, limit = now_ms(ARGV[1]), ARGV[2], ARGV[3], ARGV[7]
redis.call('ZADD', KEYS[5], int(now), ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', int(now - 60000))
local lease = redis.call('HMGET', KEYS[1], 'token', 'until', 'at')
-- a lease that ends later than any can was given before the server's clock went back
local live = num(lease[2]) > now and num(lease[2]) <= now + ARGV[4]
if lease[1] and lease[1] ~= token and live then return {0, int(num(lease[2]) - now)} end
if lease[1] ~= token then redis.call('HSET', KEYS[1], 'token', token, 'identity', ARGV[5], 'since', int(now)) end
redis.call('HSET', KEYS[1], 'until', int(now + ARGV[4]), 'at', int(now))

-- The server's clock went back: the timetable goes with it, or every loop would wait for the old time.
if lease[3] and now < num(lease[3]) - 1000 then
  local step = now - num(lease[3])
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[6])) do
    local moved = redis.call('HMGET', prefix .. name, 'next_due', 'not_before')
    redis.call('HSET', prefix .. name, 'next_due', int(num(moved[1]) + step))
    if num(moved[2]) > 0 then redis.call('HSET', prefix .. name, 'not_before', int(num(moved[2]) + step)) end
    for key = 2, 4 do
      if redis.call('ZSCORE', KEYS[key], name) then redis.call('ZINCRBY', KEYS[key], int(step), name) end
    end
  end
end

local ticks, vanished = {}, {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now), 'LIMIT', 0, limit)) do
  local run = redis.call('HMGET', prefix .. name, 'run', 'consecutive_errors')
  vanished[#vanished + 1] = {name, run[1] or '', int(num(run[2])), redis.call('ZSCORE', KEYS[3], name)}
end

-- A tick nobody took while its queue is empty was lost on the way: same seq, so a second copy is stale.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', int(now - ARGV[6]), 'LIMIT', 0, limit)) do
  local loop = redis.call('HMGET', prefix .. name, 'seq', 'slot', 'queue', 'enabled', 'stopped', 'paused')
  if loop[4] ~= '1' or loop[5] == '1' or loop[6] == '1' then
    redis.call('ZREM', KEYS[4], name)
  elseif redis.call('LLEN', loop[3]) == 0 then
    redis.call('ZADD', KEYS[4], int(now), name)
    ticks[#ticks + 1] = {name, int(num(loop[1])), int(num(loop[2])), loop[3]}
  end
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, limit)) do
  local key = prefix .. name
  local loop = redis.call('HMGET', key, 'interval', 'next_due', 'not_before', 'enabled', 'stopped', 'paused', 'queue')
  local interval, next_due, not_before = num(loop[1]), num(loop[2]), num(loop[3])
  if interval <= 0 then
    redis.call('ZREM', KEYS[2], name)
  else
    local slots = next_due <= now and math.floor((now - next_due) / interval) + 1 or 0
    local slot = slots > 0 and next_due + (slots - 1) * interval or not_before
    next_due = next_due + slots * interval
    local score = next_due
    if loop[4] == '1' and loop[5] ~= '1' and loop[6] ~= '1' then
      if redis.call('ZSCORE', KEYS[4], name) then
        redis.call('HINCRBY', key, 'missed', int(slots))
        redis.call('HINCRBY', key, 'missed_since_run', int(slots))
      elseif redis.call('ZSCORE', KEYS[3], name) then
        if slots > 0 then redis.call('HINCRBY', key, 'skipped:overlapped', int(slots)) end
      elseif not_before > now then
        if slots > 0 then redis.call('HINCRBY', key, 'skipped:backing_off', int(slots)) end
        score = not_before
      else
        local seq = redis.call('HINCRBY', key, 'seq', 1)
        -- of the slots that this tick stands for, those before the end of a backoff were backing off
        local first = slot - (slots - 1) * interval
        local backed = not_before > 0 and math.floor((not_before - first) / interval) + 1 or 0
        backed = math.min(math.max(backed, 0), math.max(slots - 1, 0))
        local missed = math.max(slots - 1, 0) - backed
        if backed > 0 then redis.call('HINCRBY', key, 'skipped:backing_off', int(backed)) end
        if missed > 0 then
          redis.call('HINCRBY', key, 'missed', int(missed))
          redis.call('HINCRBY', key, 'missed_since_run', int(missed))
        end
        redis.call('HSET', key, 'slot', int(slot))
        redis.call('ZADD', KEYS[4], int(now), name)
        ticks[#ticks + 1] = {name, int(seq), int(slot), loop[7]}
      end
    end
    redis.call('HSET', key, 'next_due', int(next_due))
    redis.call('ZADD', KEYS[2], int(score), name)
  end
end

local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = first[2] and math.max(0, num(first[2]) - now) or num(ARGV[4])
return {1, int(wait), ticks, vanished, redis.call('SCARD', KEYS[6])}
