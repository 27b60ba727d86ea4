-- ARGV: now, node, owner, reason. Takes back what other owners of this node hold; returns id and status of each.
local now, node, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
local released = {}
for _, entry in ipairs(redis.call('ZRANGE', HOLDS .. node, 0, -1)) do
  local job = held_at(node, entry, now)
  if job and job.owner ~= owner then
    retry(job, now, now, 'abandoned', ARGV[4])
    released[#released + 1] = job.id
    released[#released + 1] = job.status
  end
end
return released
