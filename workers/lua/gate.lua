-- May this tick run here and now? If so it takes the run lease.
-- KEYS: loop, running, issued, leader lease
-- ARGV: now, name, seq ('' = manual), run token, lease ttl, leader-only 1/0, owner token or '', identity,
--       deadline ms, refusal the process itself brings or '', id of the call
-- Returns {refusal}, {'abandoned', run, errors, lease end}, or
--   {'granted', now, seq, slot, missed, errors, leader fence}
local now, name, manual = now_ms(ARGV[1]), ARGV[2], ARGV[3] == ''
local loop = redis.call('HMGET', KEYS[1], 'enabled', 'stopped', 'paused', 'seq', 'taken', 'not_before',
  'consecutive_errors', 'slot', 'missed_since_run', 'run')
if not loop[1] then return {'unknown'} end
local function grant(seq, fence)
  return {'granted', int(now), int(seq), int(num(loop[8])), int(num(loop[9])), int(num(loop[7])), int(fence)}
end
if loop[10] == ARGV[4] then -- asked again after a lost reply
  return grant(num(redis.call('HGET', KEYS[1], 'run_seq')), num(redis.call('HGET', KEYS[4], 'fence')))
end
local function refuse(outcome)
  redis.call('HINCRBY', KEYS[1], 'skipped:' .. outcome, 1)
  redis.call('HSET', KEYS[1], 'last_skip', outcome, 'last_skip_at', int(now), 'last_skip_call', ARGV[11])
  if manual then
    redis.call('HSET', KEYS[1], 'manual_call', ARGV[11], 'manual_outcome', outcome, 'manual_error', '')
  end
  return {outcome}
end

local seq = num(manual and loop[4] or ARGV[3])
if not manual and (seq ~= num(loop[4]) or seq <= num(loop[5])) then return refuse('stale') end
local fence = 0
if ARGV[6] == '1' then
  local lease = redis.call('HMGET', KEYS[4], 'token', 'until', 'fence')
  -- the tick stays untaken, so beat sends it again to whoever leads
  if ARGV[7] == '' or lease[1] ~= ARGV[7] or num(lease[2]) <= now then return refuse('not_leader') end
  fence = num(lease[3])
end
-- so does one that this process may not run; a manual call is refused
if ARGV[10] ~= '' then return refuse(ARGV[10]) end
local running = redis.call('ZSCORE', KEYS[2], name)
-- a lease that ends later than any can was given before the server's clock went back
if running and (num(running) <= now or num(running) > now + ARGV[5]) then return {'abandoned', loop[10] or '', int(num(loop[7])), running} end
if not manual then
  redis.call('HSET', KEYS[1], 'taken', int(seq))
  redis.call('ZREM', KEYS[3], name)
end
if loop[1] ~= '1' then return refuse('disabled') end
if loop[2] == '1' then return refuse('stopped') end
if not manual and loop[3] == '1' then return refuse('paused') end
if not manual and num(loop[6]) > now then return refuse('backing_off') end
if running then return refuse('overlapped') end

redis.call('ZADD', KEYS[2], int(now + ARGV[5]), name)
redis.call('HSET', KEYS[1], 'run', ARGV[4], 'run_by', ARGV[8], 'run_seq', int(seq), 'run_started_at', int(now),
  'run_deadline', int(now + ARGV[9]), 'run_call', ARGV[11], 'run_manual', manual and '1' or '0', 'missed_since_run', '0')
return grant(seq, fence)
