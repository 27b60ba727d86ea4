-- KEYS: a lease. ARGV: token. Deletes it if it is ours.
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
