-- ARGV: now, limit for each set, kind or '', config or '', node or '', statuses between commas, then of each sorted
-- set: key, ZRANGEBYSCORE or ZREVRANGEBYSCORE, its two bounds.
-- Returns the hashes, flat, of the first jobs in each set that are as asked, by set and score.
local PAGE, LOOKED_AT = 500, 10000
local now, limit, rows = clock(ARGV[1]), tonumber(ARGV[2]), {}
local HELD_BY_TIME = {[CLAIMED] = 1, [RUNNING] = 1, [HEARD] = 1}

-- The job of an entry, or nil; an entry of what is held that stands for no sound job is swept aside.
local function job_of(key, entry)
  if key:sub(1, #HOLDS) == HOLDS then return held_at(key:sub(#HOLDS + 1), entry, now) end
  local id, status = parse(entry), held(entry)
  local job = id and load(id)
  if job and job.entry ~= entry then job = nil end
  if not HELD_BY_TIME[key] then return job end
  if job and job.status == status then return job end
  if status then discard(entry, status, job and job.node or '', now) end
  redis.call('ZREM', key, entry)
  return nil
end

for i = 7, #ARGV, 4 do
  local found, first, page = 0, 0, nil
  repeat
    page = redis.call(ARGV[i + 1], ARGV[i], ARGV[i + 2], ARGV[i + 3], 'LIMIT', first, PAGE)
    for _, entry in ipairs(page) do
      if found >= limit then break end
      local id, kind, config = parse(entry)
      local other = id and ((ARGV[3] ~= '' and kind ~= ARGV[3]) or (ARGV[4] ~= '' and config ~= ARGV[4]))
      local job = not other and job_of(ARGV[i], entry)
      if job and (ARGV[5] == '' or job.node == ARGV[5]) and ARGV[6]:find(',' .. job.status .. ',', 1, true) then
        local record = redis.call('HGETALL', JOB .. job.id)
        if plain(record) then
          rows[#rows + 1] = record
          found = found + 1
        elseif HELD[job.status] then
          discard(entry, job.status, job.node, now)
        end
      end
    end
    first = first + #page
  until #page < PAGE or found >= limit or first >= LOOKED_AT
end
return rows
