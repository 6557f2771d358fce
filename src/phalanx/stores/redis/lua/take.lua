-- Take one request of the rate, a permit and quota, or nothing. Every number is an integer; -1 is no limit.
-- KEYS: marker, rate, open, reserved, settled
-- ARGV: interval (us), capacity, concurrent, monthly, lease, lease time (ms)
-- Returns {window refused, generation, remaining, reset (us), wait (us), used}; {'lost'} when the counters are.
local generation = redis.call('GET', KEYS[1])
if not generation then return {'lost'} end
local interval, capacity = tonumber(ARGV[1]), tonumber(ARGV[2])
local concurrent, monthly = tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, lease_ms = ARGV[5], tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now / 1000)

local arrival, remaining = now, 0
if interval > 0 then
  arrival = math.max(now, tonumber(redis.call('GET', KEYS[2])) or now)
  local room = now + interval * capacity - arrival
  remaining = math.max(0, math.floor(room / interval))
  if room < interval then
    return {'rate', generation, remaining, arrival - now, interval - room, -1}
  end
end
-- Leases that have run out are passed over here, and removed only if the call is let in.
if concurrent >= 0 and redis.call('ZCOUNT', KEYS[3], '(' .. now_ms, '+inf') >= concurrent then
  return {'concurrency', generation, remaining, arrival - now, 0, -1}
end
local used = -1
if monthly >= 0 then
  used = (tonumber(redis.call('GET', KEYS[5])) or 0) + redis.call('ZCOUNT', KEYS[4], '(' .. now_ms, '+inf')
  if used >= monthly then
    return {'quota', generation, remaining, arrival - now, 0, used}
  end
  used = used + 1
end

if interval > 0 then
  arrival = arrival + interval
  remaining = remaining - 1
  -- Lua would write a number of this size as 1.79e+15.
  redis.call('SET', KEYS[2], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
end
if concurrent >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms)
  redis.call('ZADD', KEYS[3], now_ms + lease_ms, lease)
  redis.call('PEXPIRE', KEYS[3], lease_ms)
end
if monthly >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now_ms)
  redis.call('ZADD', KEYS[4], now_ms + lease_ms, lease)
  redis.call('PEXPIRE', KEYS[4], lease_ms)
end
return {'', generation, remaining, arrival - now, 0, used}
