-- KEYS: nodes, node. ARGV: now in ms or '', node id, role, JSON of what the role's process reports, node prefix
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
-- a node that was silent for a day is forgotten, a few at a time
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 86400000), 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('DEL', ARGV[5] .. gone)
end
