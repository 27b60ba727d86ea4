local function now_ms(override)
  if override ~= '' then return tonumber(override) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function num(value) return tonumber(value or '0') or 0 end
-- Lua's tostring turns large numbers into 1.7e+12
local function int(value) return string.format('%.0f', value) end
