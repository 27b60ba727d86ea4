-- KEYS: node. ARGV: role, owner. The role's process ends in order, unless another process has the role by now.
local owner = redis.call('HGET', KEYS[1], ARGV[1] .. ':owner')
if not owner or owner == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. ':at', ARGV[1] .. ':owner')
end
