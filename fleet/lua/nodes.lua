-- KEYS: nodes. ARGV: prefix of a node's key. Returns rows of id, last_seen ms, flat facts.
local rows = {}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  rows[#rows + 1] = {members[i], members[i + 1], redis.call('HGETALL', ARGV[1] .. members[i])}
end
return rows
