-- KEYS: node. ARGV: role, owner. The role's process ends in order, unless another process has the role by now.
local owner = redis.call('HGET', KEYS[1], ARGV[1] .. ':owner')
if not owner or owner == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. ':at', ARGV[1] .. ':owner')
  local t = redis.call('TIME')
  if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'changed', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
  end
end
