-- ARGV: now, node, owner, capabilities. Returns the best job's hash, flat, or nil when there is none.
local now, node, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
if drains(node) then return nil end
for i = 4, #ARGV do
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', DELAYED .. ARGV[i], '-inf', text(now))) do
    redis.call('ZREM', DELAYED .. ARGV[i], entry)
    local job = fetch(entry, 'pending', ARGV[i], now)
    if job then redis.call('ZADD', READY .. ARGV[i], text(job.rank), entry) end
  end
end
while true do
  local best
  for i = 4, #ARGV do
    local head = redis.call('ZRANGE', READY .. ARGV[i], 0, 0, 'WITHSCORES')
    local rank = tonumber(head[2])
    if rank and (not best or rank < best.rank or (rank == best.rank and head[1] < best.entry)) then
      best = {entry = head[1], rank = rank, capability = ARGV[i]}
    end
  end
  if not best then return nil end
  local job = fetch(best.entry, 'pending', best.capability, now)
  if job then
    local key = JOB .. job.id
    job.node = node
    redis.call('HDEL', key, 'not_before')
    redis.call('HSET', key, 'attempt', text(job.attempt + 1), 'node', node, 'owner', owner,
      'claimed_at', text(now), 'heartbeat_at', text(now))
    move(job, 'claimed', now)
    local record = redis.call('HGETALL', key)
    if plain(record) then return record end
    discard(job.entry, 'claimed', node, now)
  end
end
