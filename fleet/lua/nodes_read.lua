-- read_nodes(nodes key, words): ids and last_seen ms in turn; of each, the fields' values.
-- Words: prefix of a node's key; since (ms) or ''; number of the fields, the last of them `changed`, that are enough of a
-- node which was not changed since; the fields.
local function read_nodes(key, words)
  local since, members, values = tonumber(words[2]), redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), {}
  for i = 1, #members, 2 do
    local node, found = words[1] .. members[i], nil
    if since then
      found = redis.call('HMGET', node, unpack(words, 4, 3 + words[3]))
      if (tonumber(found[#found] or '') or since) >= since then found = nil end
    end
    values[#values + 1] = found or redis.call('HMGET', node, unpack(words, 4))
  end
  return {members, values}
end
