-- KEYS: a lease. ARGV: token. Deletes it if it is ours, and says so on the channel of its name.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', KEYS[1], 'vacant') -- not everybody may; then the others find out by looking
return 1
