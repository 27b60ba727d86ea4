-- The end of a run. KEYS: loop, due, running, history
-- ARGV: now, name, run token, outcome, duration ms, counts JSON, error, traceback, backoff ms,
--       next run after ms or '', when it failed (ms) or '', runs to keep in the history
-- Returns the outcome, or 'late' when the run no longer held its lease: then nothing is written.
local now, name, outcome = now_ms(ARGV[1]), ARGV[2], ARGV[4]
local loop = redis.call('HMGET', KEYS[1], 'run', 'run_by', 'run_seq', 'run_started_at', 'next_due', 'run_call', 'run_manual',
  'last_run', 'last_outcome')
if loop[1] ~= ARGV[3] then
  if loop[8] == ARGV[3] and loop[9] == outcome then return outcome end -- told again after a lost reply
  if redis.call('EXISTS', KEYS[1]) == 0 then return 'late' end
  redis.call('HINCRBY', KEYS[1], 'late_reports', 1)
  return 'late'
end
redis.call('ZREM', KEYS[3], name)
redis.call('HDEL', KEYS[1], 'run', 'run_by', 'run_seq', 'run_started_at', 'run_deadline', 'run_call', 'run_manual')
redis.call('HSET', KEYS[1], 'last_outcome', outcome, 'last_run', ARGV[3], 'last_run_by', loop[2], 'last_run_seq', loop[3],
  'last_run_at', loop[4], 'last_run_call', loop[6], 'last_finished_at', int(now), 'last_duration_ms', ARGV[5], 'last_counts', ARGV[6])
if loop[7] == '1' then
  redis.call('HSET', KEYS[1], 'manual_call', loop[6], 'manual_outcome', outcome, 'manual_error', ARGV[7],
    'manual_counts', ARGV[6], 'manual_duration_ms', ARGV[5])
end
if outcome == 'not_leader' then
  -- the leader lease went while it ran: no failure; its successor gets the tick at once
  redis.call('HINCRBY', KEYS[1], 'skipped:not_leader', 1)
  redis.call('ZADD', KEYS[2], int(now), name)
  return outcome
end
redis.call('HINCRBY', KEYS[1], 'run_count', 1)
redis.call('RPUSH', KEYS[4], int(now) .. '|' .. ARGV[5] .. '|' .. outcome)
redis.call('LTRIM', KEYS[4], -ARGV[12], -1)
if outcome == 'succeeded' then
  redis.call('HINCRBY', KEYS[1], 'success_count', 1)
  redis.call('HINCRBYFLOAT', KEYS[1], 'success_duration_ms', ARGV[5])
  redis.call('HSET', KEYS[1], 'consecutive_errors', '0', 'not_before', '0', 'last_success_at', int(now))
  local next_due = num(loop[5])
  if ARGV[10] ~= '' then
    next_due = now + ARGV[10]
    redis.call('HSET', KEYS[1], 'next_due', int(next_due))
  end
  redis.call('ZADD', KEYS[2], 'XX', int(next_due), name)
else
  local not_before = num(ARGV[11] ~= '' and ARGV[11] or now) + ARGV[9]
  redis.call('HINCRBY', KEYS[1], 'error_count', 1)
  redis.call('HINCRBY', KEYS[1], 'consecutive_errors', 1)
  redis.call('HSET', KEYS[1], 'not_before', int(not_before), 'last_error', ARGV[7], 'last_traceback', ARGV[8],
    'last_error_at', int(now))
  redis.call('ZADD', KEYS[2], 'XX', int(not_before), name)
end
return outcome
