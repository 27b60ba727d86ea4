-- ARGV: now, node, owner, id, attempt, then what the holder says:
--   start | complete, result, games | fail, error, retry_after ms, last status | release, reason | reject, error
-- Returns the job's new status, or nil when the holder does not hold this attempt.
local now = clock(ARGV[1])
local job = held_by(ARGV[4], ARGV[5], ARGV[2], ARGV[3])
if not job then return nil end
local key, verb = JOB .. job.id, ARGV[6]
if verb == 'start' then
  if job.status == 'claimed' then
    redis.call('HSET', key, 'started_at', text(now), 'heartbeat_at', text(now))
    move(job, 'running', now)
  end
elseif verb == 'complete' then
  redis.call('HDEL', key, 'error')
  redis.call('HSET', key, 'result', ARGV[7])
  if ARGV[8] ~= '0' then redis.call('HINCRBY', GAMES, job.config, ARGV[8]) end
  move(job, 'completed', now)
elseif verb == 'fail' then
  retry(job, now, now + ARGV[8], ARGV[9], ARGV[7])
elseif verb == 'release' then
  requeue(job, now, now, ARGV[7])
elseif verb == 'reject' then
  job.failures = job.failures + 1
  finish(job, now, 'failed', ARGV[7])
end
return job.status
