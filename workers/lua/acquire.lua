-- Take or renew the leader lease. A script and not SET NX: after a lost reply the retry must know its own lease.
-- KEYS: leader, guard. ARGV: now, token, ttl, node id, host, pid. Returns {1, fence} or {0, ms until it ends}
local now = now_ms(ARGV[1])
local lease = redis.call('HMGET', KEYS[1], 'token', 'until', 'fence')
-- a lease that ends later than any can was given before the server's clock went back
local live = lease[1] and num(lease[2]) > now and num(lease[2]) <= now + ARGV[3]
if live and lease[1] ~= ARGV[2] then return {0, int(num(lease[2]) - now)} end
if not live then
  -- Redis time in ms, so that a fence never repeats after a loss of data as a counter would
  local fence = int(math.max(num(redis.call('HGET', KEYS[2], 'fence')) + 1, now))
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'token', ARGV[2], 'fence', fence, 'node_id', ARGV[4], 'host', ARGV[5],
    'pid', ARGV[6], 'since', int(now))
  redis.call('HSET', KEYS[2], 'fence', fence, 'owner', ARGV[2])
  lease[3] = fence
end
redis.call('HSET', KEYS[1], 'until', int(now + ARGV[3]))
-- so that whoever stands by can ask for its end without a script
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, lease[3]}
