-- ARGV: now, fence (3), id, attempt, status, heartbeat ms or '', reason, retry_after ms, last status.
-- Returns why the fence refused (or ''), then the job's status unless it is no longer as it was seen.
local refused = fence_refused(FENCE_KEYS[1], FENCE_KEYS[2], ARGV[2], ARGV[3], ARGV[4])
if refused then return {refused} end
local now, job = clock(ARGV[1]), load(ARGV[5])
local unchanged = job and HELD[job.status] and job.status == ARGV[7] and job.attempt == tonumber(ARGV[6])
if not unchanged or (ARGV[8] ~= '' and job.heartbeat_at ~= tonumber(ARGV[8])) then return {''} end
retry(job, now, now + ARGV[10], ARGV[11], ARGV[9])
return {'', job.status}
