-- read_nodes(nodes key, words): rows of id, last_seen ms and fields. Words: prefix of a node's key, then the fields.
local function read_nodes(key, words)
  local rows = {}
  local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    rows[#rows + 1] = {members[i], members[i + 1], redis.call('HMGET', words[1] .. members[i], unpack(words, 2))}
  end
  return rows
end
