-- KEYS: nodes, node. ARGV: now in ms or '', node id, role, owner, ms until silent, 1 to take the role anyway,
-- JSON of what the role's process reports, JSON of its history or '', node prefix.
-- Returns now; then the facts and the last heartbeat of the process that has the role, if that is another.
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local at = string.format('%.0f', now)
local role, owner = ARGV[3], ARGV[4]
local held = redis.call('HMGET', KEYS[2], role, role .. ':at', role .. ':owner')
local others = held[1] and held[3] and owner ~= '' and held[3] ~= owner
if others and ARGV[6] ~= '1' and tonumber(held[2]) > now - ARGV[5] then return {at, held[1], held[2]} end
redis.call('ZADD', KEYS[1], at, ARGV[2])
redis.call('HSET', KEYS[2], role, ARGV[7], role .. ':at', at)
if owner ~= '' then redis.call('HSET', KEYS[2], role .. ':owner', owner) end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[2], 'history', ARGV[8]) end
-- a node that was silent for a day is forgotten, a few at a time
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 86400000), 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('DEL', ARGV[9] .. gone)
end
return {at, '', ''}
