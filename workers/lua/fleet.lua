-- What the dashboard's page of nodes shows, in one round trip; reads only.
-- KEYS: nodes, leader, totals. ARGV: now, since when totals are wanted (ms before now), then what read_nodes takes
local now, lease = now_ms(ARGV[1]), redis.call('HMGET', KEYS[2], 'node_id', 'until')
local leads = num(lease[2]) > now and lease[1] or ''
return {int(now), leads, read_nodes(KEYS[1], {unpack(ARGV, 3)}), redis.call('XRANGE', KEYS[3], int(now - ARGV[2]), '+')}
