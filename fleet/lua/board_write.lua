-- KEYS: hash, guard, loop. ARGV: fence (3), then field and value of all that the hash shall hold.
-- Returns why the fence refused, or ''.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
redis.call('DEL', KEYS[1])
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return ''
