-- ARGV: now, id. Returns the status the job had and its capability, unless it or its record is lost.
-- One that ended badly is pending again, in its old place; its attempts go on being counted.
local now, job = clock(ARGV[1]), load(ARGV[2])
if not job or redis.call('HEXISTS', JOB .. job.id, 'lost') == 1 then return {} end
local had = job.status
if FINAL[had] and had ~= 'completed' then
  job.failures = 0
  requeue(job, now, now)
end
return {had, job.capability}
