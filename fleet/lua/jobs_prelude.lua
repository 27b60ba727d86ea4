-- What every script of the job queue shares; it stands before each, after the fence.
-- Prefixes: + job id, + capability, + capability, + node id; and NODE: + node id.
local JOB, READY, DELAYED, HOLDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local HOLDERS, CLAIMED, RUNNING, HEARD, FINISHED = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local COUNTS, GAMES, SEQ, NODE, FENCE_KEYS = KEYS[10], KEYS[11], KEYS[12], KEYS[13], {KEYS[14], KEYS[15]}

local HELD = {claimed = CLAIMED, running = RUNNING}
local OUTSTANDING = {pending = 1, claimed = 1, running = 1}
local FINAL = {completed = 1, failed = 1, cancelled = 1, timed_out = 1, abandoned = 1}
local KEEP_SECONDS, KEEP_LISTED = 86400, 1000

local function clock(now)
  if now ~= '' then return tonumber(now) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Numbers are written out in full: the server may shorten large ones to an exponent.
local function text(number) return string.format('%.0f', number) end

local function integer(value)
  return value and #value < 17 and value:find('^%-?%d+$') and tonumber(value) or nil
end

-- An entry stands for its job in every sorted set: a padded sequence number, so that equal scores stay
-- first come, first served, and all the counters need, so that they hold when the job's record does not.
local function entry_of(id, kind, config)
  return string.format('%016.0f:%s:%s:%s', redis.call('INCR', SEQ), id, kind, config)
end

local function parse(entry) return entry:match('^%d+:([%w._-]+):([%w_]+):([%w_]+)$') end

local function tally(field, by)
  if redis.call('HINCRBY', COUNTS, field, by) == 0 then redis.call('HDEL', COUNTS, field) end
end

local function depth()
  local sum = 0
  for status in pairs(OUTSTANDING) do sum = sum + (redis.call('HGET', COUNTS, 'status:' .. status) or 0) end
  return sum
end

local function let_go(node, entry)
  redis.call('ZREM', HOLDS .. node, entry)
  if redis.call('EXISTS', HOLDS .. node) == 0 then redis.call('SREM', HOLDERS, node) end
end

-- move(job, to, now, due): the one way from status to status (from nil for a new job), for sets and counters.
local function move(job, to, now, due)
  local from, key = job.status, JOB .. job.id
  if from == 'pending' then
    redis.call('ZREM', READY .. job.capability, job.entry)
    redis.call('ZREM', DELAYED .. job.capability, job.entry)
    tally('pending:' .. job.capability, -1)
  elseif HELD[from] then
    redis.call('ZREM', HELD[from], job.entry)
    redis.call('ZREM', HEARD, job.entry)
    let_go(job.node, job.entry)
  elseif from then
    redis.call('ZREM', FINISHED, job.entry)
    redis.call('HDEL', key, 'finished_at')
    redis.call('PERSIST', key)
  end
  redis.call('HSET', key, 'status', to)
  if to == 'pending' then
    if due and due > now then
      redis.call('ZADD', DELAYED .. job.capability, text(due), job.entry)
    else
      redis.call('ZADD', READY .. job.capability, text(job.rank), job.entry)
    end
    tally('pending:' .. job.capability, 1)
  elseif HELD[to] then
    redis.call('ZADD', HELD[to], text(to == 'running' and now + job.timeout * 1000 or now), job.entry)
    redis.call('ZADD', HEARD, text(now), job.entry)
    redis.call('ZADD', HOLDS .. job.node, text(now), job.entry)
    redis.call('SADD', HOLDERS, job.node)
  else
    redis.call('HSET', key, 'finished_at', text(now))
    redis.call('EXPIRE', key, KEEP_SECONDS)
    redis.call('ZADD', FINISHED, text(now), job.entry)
    redis.call('ZREMRANGEBYRANK', FINISHED, 0, -KEEP_LISTED - 1)
    redis.call('ZREMRANGEBYSCORE', FINISHED, '-inf', text(now - KEEP_SECONDS * 1000))
  end
  for _, change in ipairs({{from, -1}, {to, 1}}) do
    if change[1] then
      tally('status:' .. change[1], change[2])
      tally('kind:' .. job.kind .. ':' .. change[1], change[2])
      if OUTSTANDING[change[1]] then tally('outstanding:' .. job.kind .. ':' .. job.config, change[2]) end
    end
  end
  job.status = to
end

-- Whether a record is ASCII, as the queue writes it; anything else may be more than a client can decode.
local function plain(record)
  for _, word in ipairs(record) do
    if word:find('[\128-\255]') then return false end
  end
  return true
end

-- load(id): the job's record, or nil when it is missing or not to be trusted.
local function load(id)
  local row = redis.pcall('HMGET', JOB .. id, 'entry', 'status', 'capability', 'rank', 'attempt', 'failures',
    'max_attempts', 'node', 'owner', 'heartbeat_at', 'id', 'kind', 'config', 'timeout', 'claimed_at', 'started_at')
  if row.err or not row[1] then return nil end
  local job = {
    id = row[11], kind = row[12], config = row[13], entry = row[1], status = row[2], capability = row[3] or '',
    rank = integer(row[4]), attempt = integer(row[5]), failures = integer(row[6]), max_attempts = integer(row[7]),
    node = row[8], owner = row[9], heartbeat_at = integer(row[10]), timeout = tonumber(row[14] or nil),
    claimed_at = integer(row[15]), started_at = integer(row[16]),
  }
  local named, kind, config = parse(job.entry)
  local same = job.id == id and named == id and job.kind == kind and job.config == config
  local known = OUTSTANDING[job.status] or FINAL[job.status]
  local numbers = job.rank and job.attempt and job.failures and job.max_attempts
  local timed = job.timeout and job.timeout > 0
  local times = job.heartbeat_at and job.claimed_at and (job.status ~= 'running' or job.started_at)
  local holder = not HELD[job.status] or (job.node and job.owner and times)
  if same and known and numbers and timed and holder and job.capability:find('^[a-z][a-z0-9_]*$') then return job end
  return nil
end

-- The status that an entry is held in, if it is.
local function held(entry)
  return redis.call('ZSCORE', CLAIMED, entry) and 'claimed' or redis.call('ZSCORE', RUNNING, entry) and 'running'
end

-- An entry without a sound record ends as failed, so that it stands in nobody's way.
local function discard(entry, status, place, now)
  redis.call('ZREM', HELD[status] or READY .. place, entry)
  local id, kind, config = parse(entry)
  if not id then return end -- no job was ever counted for it
  local other = load(id)
  local job = {id = id, entry = entry, kind = kind, config = config, status = status, capability = place, node = place}
  if other and other.entry ~= entry then job.id = id .. ':lost' end -- the id belongs to a later job
  local key = JOB .. job.id
  redis.call('DEL', key)
  redis.call('HSET', key, 'id', id, 'entry', entry, 'kind', kind, 'config', config, 'capability', 'unknown',
    'priority', '0', 'payload', '{}', 'attempt', '0', 'failures', '0', 'max_attempts', '1', 'timeout', '1',
    'rank', text(now), 'created_at', text(now), 'lost', '1',
    'error', cjson.encode('the record of this job was lost or malformed'))
  move(job, 'failed', now)
end

-- fetch(entry, status, place, now): the job an entry stands for in that status; place is its capability or its node.
local function fetch(entry, status, place, now)
  local job = load(parse(entry) or '')
  if job and job.entry ~= entry then job = nil end
  if job and job.status == status and (HELD[status] and job.node or job.capability) == place then return job end
  local set = job and not (HELD[status] and job.node == place) and HELD[job.status]
  if set and redis.call('ZSCORE', set, entry) and redis.call('ZSCORE', HOLDS .. job.node, entry) then
    redis.call('ZREM', HELD[status] and HOLDS .. place or READY .. place, entry) -- a stray one: it is held elsewhere
  else
    discard(entry, status, place, now)
  end
  return nil
end

-- The job of an entry among those that a node holds, or nil: then the node holds it no more.
local function held_at(node, entry, now)
  local status = held(entry)
  local job = status and fetch(entry, status, node, now)
  if not job then let_go(node, entry) end
  return job
end

-- How many jobs of a capability can be claimed now.
local function claimable(capability, now)
  return redis.call('ZCARD', READY .. capability) + redis.call('ZCOUNT', DELAYED .. capability, '-inf', text(now))
end

local function drains(node) return redis.call('HEXISTS', NODE .. node, 'drain') == 1 end

-- Only the holder of this attempt may speak for a job.
local function held_by(id, attempt, node, owner)
  local job = load(id)
  local same = job and job.attempt == tonumber(attempt) and job.node == node and job.owner == owner
  return same and HELD[job.status] and job or nil
end

local function requeue(job, now, due, why)
  local key = JOB .. job.id
  redis.call('HDEL', key, 'node', 'owner', 'claimed_at', 'started_at', 'heartbeat_at', 'not_before')
  redis.call('HSET', key, 'failures', text(job.failures))
  if why then redis.call('HSET', key, 'error', why) end
  if due > now then redis.call('HSET', key, 'not_before', text(due)) end
  move(job, 'pending', now, due)
end

local function finish(job, now, status, why)
  redis.call('HSET', JOB .. job.id, 'failures', text(job.failures), 'error', why)
  move(job, status, now)
end

-- One more failure: another attempt at `due` if there is one left, else the end.
local function retry(job, now, due, ending, why)
  job.failures = job.failures + 1
  if job.failures < job.max_attempts then requeue(job, now, due, why) else finish(job, now, ending, why) end
end
