-- ARGV: now, ZRANGEBYSCORE or ZREVRANGEBYSCORE and its two bounds, limit for each set, then the sorted sets.
-- Returns the jobs' hashes, flat, by set and score.
local now, rows = clock(ARGV[1]), {}
for i = 6, #ARGV do
  for _, entry in ipairs(redis.call(ARGV[2], ARGV[i], ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])) do
    local id = parse(entry)
    local job = id and load(id)
    if job and job.entry == entry then
      rows[#rows + 1] = redis.call('HGETALL', JOB .. id)
    elseif ARGV[i] == CLAIMED or ARGV[i] == RUNNING then
      discard(entry, ARGV[i] == CLAIMED and 'claimed' or 'running', '', now)
    end
  end
end
return rows
