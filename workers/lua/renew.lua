-- KEYS: running. ARGV: now, loop prefix, lease ttl, then name, run token, ... Returns the names that are lost.
local now, lost = now_ms(ARGV[1]), {}
for i = 4, #ARGV, 2 do
  local name = ARGV[i]
  if redis.call('HGET', ARGV[2] .. name, 'run') == ARGV[i + 1] and redis.call('ZSCORE', KEYS[1], name) then
    redis.call('ZADD', KEYS[1], int(now + ARGV[3]), name)
  else
    lost[#lost + 1] = name
  end
end
return lost
