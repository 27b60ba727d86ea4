-- Publish what ratings came to: KEYS elo, fence's; ARGV fence's, then field, document ... in pairs.
-- Configurations that are not among them go. Returns why it is refused, or nil.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
local kept = {}
for i = 4, #ARGV, 2 do
  kept[ARGV[i]] = true
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not kept[field] then redis.call('HDEL', KEYS[1], field) end
end
return nil
