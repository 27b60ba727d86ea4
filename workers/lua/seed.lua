-- Make the timetable what the plan says, moving no slot that exists. KEYS: loops, due, running, issued,
-- history prefix. ARGV: now, loop prefix, prune 1/0, then one JSON object a loop
local now, prefix, planned = now_ms(ARGV[1]), ARGV[2], {}
for i = 4, #ARGV do
  local loop = cjson.decode(ARGV[i])
  local key = prefix .. loop.name
  planned[loop.name] = true
  local was = redis.call('HMGET', key, 'plan_interval', 'next_due', 'not_before')
  local interval, next_due = int(loop.interval), num(was[2])
  if not was[2] then next_due = now + loop.initial_delay end
  if was[1] ~= interval then
    if was[1] then next_due = math.min(next_due, now + loop.interval) end
    redis.call('HSET', key, 'plan_interval', interval, 'interval', interval)
  end
  redis.call('HSET', key, 'enabled', loop.enabled and '1' or '0', 'queue', loop.queue, 'next_due', int(next_due),
    'leader_only', loop.leader_only and '1' or '0', 'source', loop.source)
  redis.call('SADD', KEYS[1], loop.name)
  redis.call('ZADD', KEYS[2], 'NX', int(next_due), loop.name)
  if num(was[3]) <= now then redis.call('ZADD', KEYS[2], 'XX', int(next_due), loop.name) end
end
if ARGV[3] == '1' then
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if not planned[name] and redis.call('HGET', prefix .. name, 'source') == 'plan' then
      redis.call('SREM', KEYS[1], name)
      for k = 2, 4 do redis.call('ZREM', KEYS[k], name) end
      redis.call('DEL', prefix .. name, KEYS[5] .. name)
    end
  end
end
