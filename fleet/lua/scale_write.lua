-- KEYS: scaling, guard, loop. ARGV: fence (3), then field and value, flat. Returns why the fence refused, or ''.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
return ''
