-- ARGV: now, node, owner, orphan ms, idle slots, number of running jobs, then id, attempt of each,
-- then capability, broker list of each queue.
-- Returns {lost ids}, {wake-ups owed, by queue}, whether the node drains, {ids that ended as abandoned}.
local now, node, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
local idle, first_queue = tonumber(ARGV[5]), 7 + 2 * ARGV[6]
local lost, named, ended = {}, {}, {}
for i = 7, first_queue - 1, 2 do
  local job = held_by(ARGV[i], ARGV[i + 1], node, owner)
  if job then
    named[job.entry] = true
    redis.call('HSET', JOB .. job.id, 'heartbeat_at', text(now))
    redis.call('ZADD', HEARD, text(now), job.entry)
  else
    lost[#lost + 1] = ARGV[i]
  end
end
-- Held, yet long unnamed: the reply to the claim was lost, or the thread that ran it died.
for _, entry in ipairs(redis.call('ZRANGE', HOLDS .. node, 0, -1)) do
  if not named[entry] then
    local job = held_at(node, entry, now)
    if job and job.owner == owner and job.heartbeat_at <= now - ARGV[4] then
      local why = cjson.encode('its holder no longer knew of it')
      if job.status == 'claimed' then requeue(job, now, now, why) else retry(job, now, now, 'abandoned', why) end
      if FINAL[job.status] then ended[#ended + 1] = job.id end
    end
  end
end
local draining, wakes = drains(node), {}
for i = first_queue, #ARGV, 2 do
  local owed = draining and 0 or claimable(ARGV[i], now)
  if owed > 0 and redis.call('LLEN', ARGV[i + 1]) > 0 then owed = 0 end
  wakes[#wakes + 1] = math.min(owed, idle)
end
return {lost, wakes, draining and 1 or 0, ended}
