-- fence_refused(guard key, loop key, leader fence, owner, run token): nil, or why the write is refused.
-- Empty or zero arguments skip their check, so an unfenced write passes.
local function fence_refused(guard, loop, fence, owner, run)
  fence = tonumber(fence) or 0
  if fence > 0 then
    local seen = redis.call('HMGET', guard, 'fence', 'owner')
    local newest = tonumber(seen[1] or '0')
    if newest > fence or (newest == fence and seen[2] ~= owner) then return 'leader' end
    if newest < fence then
      redis.call('HSET', guard, 'fence', string.format('%.0f', fence), 'owner', owner)
    end
  end
  if run ~= '' and redis.call('HGET', loop, 'run') ~= run then return 'run' end
  return nil
end
