-- Prolong leases that are still there, and return the generation, or false when the counters are lost.
-- KEYS: marker; then for each lease: open, reserved
-- ARGV: lease time (ms); then each lease
local clock = redis.call('TIME')
local ends = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]
for entry = 0, (#KEYS - 1) / 2 - 1 do
  local open, reserved = KEYS[2 + entry * 2], KEYS[3 + entry * 2]
  local lease = ARGV[2 + entry]
  redis.call('ZADD', open, 'XX', ends, lease)
  redis.call('PEXPIRE', open, ARGV[1])
  redis.call('ZADD', reserved, 'XX', ends, lease)
  redis.call('PEXPIRE', reserved, ARGV[1])
end
return redis.call('GET', KEYS[1])
