-- An operator's word. KEYS: loop, due. ARGV: now, name, action, value. Returns 1, or 0 for an unknown loop.
local now, name, action, value = now_ms(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if action == 'pause' then
  redis.call('HSET', KEYS[1], 'paused', '1', 'paused_at', int(now))
elseif action == 'resume' then
  redis.call('HSET', KEYS[1], 'paused', '0')
elseif action == 'stop' then
  redis.call('HSET', KEYS[1], 'stopped', '1')
elseif action == 'start' then
  -- a fresh start: the backoff of whatever failed before is forgotten
  redis.call('HSET', KEYS[1], 'stopped', '0', 'paused', '0', 'not_before', '0', 'consecutive_errors', '0')
  redis.call('ZADD', KEYS[2], 'XX', int(num(redis.call('HGET', KEYS[1], 'next_due'))), name)
elseif action == 'interval' then
  local next_due = math.min(num(redis.call('HGET', KEYS[1], 'next_due')), now + value)
  redis.call('HSET', KEYS[1], 'interval', value, 'next_due', int(next_due))
  if num(redis.call('HGET', KEYS[1], 'not_before')) <= now then redis.call('ZADD', KEYS[2], 'XX', int(next_due), name) end
end
return 1
