-- KEYS: gathering, guard, loop. ARGV: fence (3), then every field and value, flat. Returns why the fence refused, or ''.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
redis.call('DEL', KEYS[1])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return ''
