-- ARGV: now, node, owner, orphan ms, idle slots, number of running jobs, then id, attempt of each,
-- then capability, broker list of each queue. Returns {lost ids}, {wake-ups owed, by queue}.
local now, node, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
local idle, first_queue = tonumber(ARGV[5]), 7 + 2 * ARGV[6]
local lost, named = {}, {}
for i = 7, first_queue - 1, 2 do
  local job = held_by(ARGV[i], ARGV[i + 1], node, owner)
  if job then
    named[job.entry] = true
    redis.call('HSET', JOB .. job.id, 'heartbeat_at', text(now))
    redis.call('ZADD', HELD[job.status], text(now), job.entry)
  else
    lost[#lost + 1] = ARGV[i]
  end
end
-- Held, yet long unnamed: the reply to the claim was lost, or the thread that ran it died.
for _, entry in ipairs(redis.call('SMEMBERS', HOLDS .. node)) do
  if not named[entry] then
    local status = redis.call('ZSCORE', CLAIMED, entry) and 'claimed' or 'running'
    local job = redis.call('ZSCORE', HELD[status], entry) and fetch(entry, status, node, now)
    if not job then
      redis.call('SREM', HOLDS .. node, entry)
    elseif job.owner == owner and job.heartbeat_at <= now - ARGV[4] then
      local why = cjson.encode('its holder no longer knew of it')
      if status == 'claimed' then requeue(job, now, now, why) else retry(job, now, now, 'abandoned', why) end
    end
  end
end
local wakes = {}
for i = first_queue, #ARGV, 2 do
  local owed = 0
  if redis.call('LLEN', ARGV[i + 1]) == 0 then
    owed = redis.call('ZCARD', READY .. ARGV[i]) + redis.call('ZCOUNT', DELAYED .. ARGV[i], '-inf', text(now))
  end
  wakes[#wakes + 1] = math.min(owed, idle)
end
return {lost, wakes}
