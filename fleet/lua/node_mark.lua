-- KEYS: nodes, guard, loop, totals, job counts, games. ARGV: fence (3), node prefix, rows of totals to keep,
-- JSON of a row of totals or '', number of nodes to forget, these, then node, mark, JSON or '' of each change.
-- Returns why the fence refused, or ''.
local refused = fence_refused(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if refused then return refused end
if ARGV[6] ~= '' then
  local row = {'nodes', ARGV[6]}
  for _, status in ipairs({'pending', 'claimed', 'running', 'completed'}) do
    row[#row + 1] = status
    row[#row + 1] = redis.call('HGET', KEYS[5], 'status:' .. status) or 0
  end
  local games = 0
  for _, number in ipairs(redis.call('HVALS', KEYS[6])) do games = games + number end
  row[#row + 1] = 'games'
  row[#row + 1] = string.format('%.0f', games)
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[5], '*', unpack(row))
end
local first = 8 + ARGV[7]
for i = 8, first - 1 do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('DEL', ARGV[4] .. ARGV[i])
end
local t = redis.call('TIME')
local at = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
for i = first, #ARGV, 3 do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    local node = ARGV[4] .. ARGV[i]
    if ARGV[i + 2] == '' then
      redis.call('HDEL', node, ARGV[i + 1])
      redis.call('HSET', node, 'changed', at)
    else
      redis.call('HSET', node, ARGV[i + 1], ARGV[i + 2], 'changed', at)
    end
  end
end
return ''
