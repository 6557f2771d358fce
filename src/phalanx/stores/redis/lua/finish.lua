-- Put an answer in the place of a claim, or free the key; whoever does not hold the claim changes nothing.
-- KEYS: the key; when the subject's answers end, by key (sorted set); their bytes, by key, and `total` (hash)
-- ARGV: claim, answer or nothing, time an answer is kept (ms), bytes of a subject's answers, bytes of an entry besides
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
local key, ends, sizes, kept_ms = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local total = tonumber(redis.call('HGET', sizes, 'total')) or 0
local function forget(name)
  total = total - (tonumber(redis.call('HGET', sizes, name)) or 0)
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', ends, name)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now_ms)) do forget(name) end
forget(key)
local bytes = #ARGV[2] + ARGV[5]
total = total + bytes
while total > tonumber(ARGV[4]) do
  local oldest = redis.call('ZRANGE', ends, 0, 0)[1]
  if not oldest then break end
  -- What has ended is forgotten already, so this is an answer still, and nobody's claim.
  redis.call('DEL', oldest)
  forget(oldest)
end
redis.call('SET', key, ARGV[2], 'PX', kept_ms)
redis.call('ZADD', ends, now_ms + kept_ms, key)
redis.call('HSET', sizes, key, bytes, 'total', total)
redis.call('PEXPIRE', ends, kept_ms)
redis.call('PEXPIRE', sizes, kept_ms)
return 1
