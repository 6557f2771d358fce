-- Prolong leases that are still there, and return the generation, or false when the counters are lost.
-- KEYS: marker; then for each lease: open, reserved
-- ARGV: lease time (ms); then for each lease: lease, cost
local clock = redis.call('TIME')
local ends = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]
for entry = 0, (#KEYS - 1) / 2 - 1 do
  local open, reserved = KEYS[2 + entry * 2], KEYS[3 + entry * 2]
  local lease, cost = ARGV[2 + entry * 2], tonumber(ARGV[3 + entry * 2])
  redis.call('ZADD', open, 'XX', ends, lease)
  redis.call('PEXPIRE', open, ARGV[1])
  for unit = 1, cost do
    redis.call('ZADD', reserved, 'XX', ends, lease .. ':' .. unit)
  end
  redis.call('PEXPIRE', reserved, ARGV[1])
end
return redis.call('GET', KEYS[1])
