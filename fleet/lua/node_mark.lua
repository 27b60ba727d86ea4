-- KEYS: nodes, guard, loop. ARGV: fence (3), node prefix, number of nodes to forget, these,
-- then node, mark, JSON or '' of each change. Returns why the fence refused, or ''.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
local first = 6 + ARGV[5]
for i = 6, first - 1 do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('DEL', ARGV[4] .. ARGV[i])
end
for i = first, #ARGV, 3 do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    if ARGV[i + 2] == '' then
      redis.call('HDEL', ARGV[4] .. ARGV[i], ARGV[i + 1])
    else
      redis.call('HSET', ARGV[4] .. ARGV[i], ARGV[i + 1], ARGV[i + 2])
    end
  end
end
return ''
