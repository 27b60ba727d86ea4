-- Everything `status` and the dashboard's page of loops show, in one round trip; reads only.
-- KEYS: loops, due, running, issued, leader, beat, beats, nodes, job counts, games, history prefix, targets.
-- ARGV: now, loop prefix, runs of each loop's history, then what read_nodes takes
local loops = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  loops[#loops + 1] = {name, redis.call('HGETALL', ARGV[2] .. name), redis.call('ZSCORE', KEYS[2], name) or '',
    redis.call('ZSCORE', KEYS[3], name) or '', redis.call('ZSCORE', KEYS[4], name) or '',
    ARGV[3] == '0' and {} or redis.call('LRANGE', KEYS[11] .. name, -ARGV[3], -1)}
end
return {int(now_ms(ARGV[1])), loops, redis.call('HGETALL', KEYS[5]), redis.call('HGETALL', KEYS[6]),
  redis.call('ZRANGE', KEYS[7], 0, -1, 'WITHSCORES'), read_nodes(KEYS[8], {unpack(ARGV, 4)}), redis.call('HGETALL', KEYS[9]), redis.call('HGETALL', KEYS[10]),
  redis.call('HGETALL', KEYS[12])}
