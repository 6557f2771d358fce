-- Says a worker's word on a matter and returns every living worker's.
-- KEYS: hash of words, each behind its time. ARGV: worker, word, milliseconds that a worker lives without a word.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], alive * 2)
local words = redis.call('HGETALL', KEYS[1])
local living = {}
for index = 1, #words, 2 do
  local at, word = string.match(words[index + 1], '^(%d+) (.*)$')
  if now - tonumber(at) < alive then
    living[#living + 1] = words[index]
    living[#living + 1] = word
  else
    redis.call('HDEL', KEYS[1], words[index])
  end
end
return living
