-- ARGV: now, ms of waiting, prefix of the broker's lists. Returns capability and claimable jobs of each capability
-- whose list of wake-ups is empty although its next job has waited so long.
local now, rows = clock(ARGV[1]), {}
local since = now - ARGV[2]
for _, field in ipairs(redis.call('HKEYS', COUNTS)) do
  local capability = field:match('^pending:(.+)$')
  if capability and redis.call('LLEN', ARGV[3] .. capability) == 0 then
    local id = parse(redis.call('ZRANGE', READY .. capability, 0, 0)[1] or '')
    local created_at = integer(id and redis.call('HGET', JOB .. id, 'created_at'))
    local old = created_at and created_at <= since
    if old or redis.call('ZCOUNT', DELAYED .. capability, '-inf', text(since)) > 0 then
      rows[#rows + 1] = capability
      rows[#rows + 1] = claimable(capability, now)
    end
  end
end
return rows
