-- Notices held back until the message of their title is due, for the whole fleet.
-- KEYS: due (title -> when its message is due, ms). ARGV: now in ms or '', group ms, interval ms,
-- prefix of a title's key, most titles, most lines, ms of life, verb, then
--   add, title, rank of severity, line   returns ms until its message is due
--   take, early or '', lease ms          returns ms until the next is due or '', then {title, told, n, worst, lines}
--   done, title, told, again ms          all up to `told` is said; what is left is due so long after this attempt
local now, group, interval = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local prefix, titles, lines, life, verb = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local function text(number) return string.format('%.0f', number) end

-- read(title): how many are told, how many there are, the worst of the others, when a message was last tried.
local function read(title)
  local row = redis.call('HMGET', prefix .. title, 'told', 'n', 'worst', 'tried_at')
  return tonumber(row[1] or 0), tonumber(row[2] or 0), tonumber(row[3] or 0), tonumber(row[4])
end

if verb == 'add' then
  local title, rank, line = ARGV[9], tonumber(ARGV[10]), ARGV[11]
  local due = redis.call('ZSCORE', KEYS[1], title)
  if not due and redis.call('ZCARD', KEYS[1]) >= titles then
    title, line = 'Other notices', title .. ': ' .. line
    due = redis.call('ZSCORE', KEYS[1], title)
  end
  local told, n, worst, tried_at = read(title)
  local key = prefix .. title
  redis.call('HSET', key, 'n', text(n + 1), 'worst', text(math.max(worst, rank)))
  if n < told + lines then redis.call('HSET', key, text(n + 1), line) end
  redis.call('PEXPIRE', key, life)
  if not due then
    due = math.max(now + group, tried_at and tried_at + interval or 0)
    redis.call('ZADD', KEYS[1], text(due), title)
  end
  return text(due - now)
elseif verb == 'take' then
  local taken = {}
  for _, title in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[9] == '' and text(now) or '+inf')) do
    local told, n, worst, tried_at = read(title)
    if n == told then
      redis.call('ZREM', KEYS[1], title)
    elseif ARGV[9] == '' or not tried_at or tried_at + interval <= now then
      redis.call('HSET', prefix .. title, 'tried_at', text(now))
      redis.call('ZADD', KEYS[1], text(now + ARGV[10]), title)
      local fields = {}
      for i = told + 1, math.min(n, told + lines) do fields[#fields + 1] = text(i) end
      taken[#taken + 1] = {title, text(n), text(n - told), text(worst), redis.call('HMGET', prefix .. title, unpack(fields))}
    end
  end
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return {first[2] and text(math.max(0, first[2] - now)) or '', taken}
elseif verb == 'done' then
  local title, upto = ARGV[9], tonumber(ARGV[10])
  local told, n, _, tried_at = read(title)
  if upto > told and upto <= n then
    local said = {}
    for i = told + 1, math.min(upto, told + lines) do said[#said + 1] = text(i) end
    redis.call('HDEL', prefix .. title, unpack(said))
    redis.call('HSET', prefix .. title, 'told', text(upto))
    told = upto
  end
  if n == told then
    redis.call('HDEL', prefix .. title, 'worst')
    redis.call('ZREM', KEYS[1], title)
  else
    redis.call('ZADD', KEYS[1], text((tried_at or now) + ARGV[11]), title)
  end
end
