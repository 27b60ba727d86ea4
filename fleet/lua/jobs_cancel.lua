-- ARGV: now, fence (3), id, reason. Returns why the fence refused (or ''), then the job's status unless unknown.
local refused = fence_refused(FENCE_KEYS[1], FENCE_KEYS[2], ARGV[2], ARGV[3], ARGV[4])
if refused then return {refused} end
local job = load(ARGV[5])
if not job then return {''} end
if OUTSTANDING[job.status] then finish(job, clock(ARGV[1]), 'cancelled', ARGV[6]) end
return {'', job.status}
