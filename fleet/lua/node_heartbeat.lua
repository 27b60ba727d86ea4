-- KEYS: nodes, node. ARGV: now in ms or '', node id, role, owner, ms until silent, last heartbeat (ms) of a process
-- known to be dead or '', JSON of what the role's process reports, JSON of its history or '', node prefix.
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
-- one heard later than now was heard before the server's clock went back
if others and ARGV[6] ~= held[2] and math.abs(now - held[2]) < tonumber(ARGV[5]) then return {at, held[1], held[2]} end
redis.call('ZADD', KEYS[1], at, ARGV[2])
local fields = {role, ARGV[7], role .. ':at', at}
-- an agent says something else each time, so whoever wants to know what is new reads that anyway
if not tonumber(held[2] or '') or role ~= 'agent' and held[1] ~= ARGV[7] then
  fields[#fields + 1] = 'changed'
  fields[#fields + 1] = at
end
if owner ~= '' then
  fields[#fields + 1] = role .. ':owner'
  fields[#fields + 1] = owner
end
if ARGV[8] ~= '' then
  fields[#fields + 1] = 'history'
  fields[#fields + 1] = ARGV[8]
  -- once a minute: nodes that were silent for a day are forgotten, a few at a time; a drain outlasts the repair
  local day_ago = string.format('%.0f', now - 86400000)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', day_ago, 'LIMIT', 0, 100)) do
    if redis.call('HEXISTS', ARGV[9] .. gone, 'drain') == 0 then
      redis.call('ZREM', KEYS[1], gone)
      redis.call('DEL', ARGV[9] .. gone)
    end
  end
end
redis.call('HSET', KEYS[2], unpack(fields))
return {at, '', ''}
