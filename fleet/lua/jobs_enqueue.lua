-- ARGV: now, fence (3), depth cap or '', ageing ms per point, then for each job its
-- id, kind, config, capability, priority, payload, timeout, max_attempts.
-- Returns why the fence refused (or ''), then the accepted ids.
local refused = fence_refused(FENCE_KEYS[1], FENCE_KEYS[2], ARGV[2], ARGV[3], ARGV[4])
if refused then return {refused} end
local now = clock(ARGV[1])
local room = ARGV[5] == '' and math.huge or tonumber(ARGV[5]) - depth()
local reply = {''}
for i = 7, #ARGV, 8 do
  if room < 1 then break end
  local id, kind, config, capability = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('EXISTS', JOB .. id) == 0 then
    local job = {
      id = id, kind = kind, config = config, capability = capability,
      entry = entry_of(id, kind, config), rank = now - ARGV[i + 4] * ARGV[6],
    }
    redis.call('HSET', JOB .. id, 'id', id, 'entry', job.entry, 'kind', kind, 'config', config,
      'capability', capability, 'priority', ARGV[i + 4], 'payload', ARGV[i + 5], 'timeout', ARGV[i + 6],
      'max_attempts', ARGV[i + 7], 'attempt', '0', 'failures', '0', 'rank', text(job.rank), 'created_at', text(now))
    move(job, 'pending', now)
    room = room - 1
    reply[#reply + 1] = id
  end
end
return reply
