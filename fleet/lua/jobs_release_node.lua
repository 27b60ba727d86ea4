-- ARGV: now, node, owner, reason. Takes back what other owners of this node hold; returns the ids.
local now, node, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
local released = {}
for _, entry in ipairs(redis.call('SMEMBERS', HOLDS .. node)) do
  local status = redis.call('ZSCORE', CLAIMED, entry) and 'claimed' or 'running'
  local job = redis.call('ZSCORE', HELD[status], entry) and fetch(entry, status, node, now)
  if not job then
    redis.call('SREM', HOLDS .. node, entry)
  elseif job.owner ~= owner then
    retry(job, now, now, 'abandoned', ARGV[4])
    released[#released + 1] = job.id
  end
end
return released
