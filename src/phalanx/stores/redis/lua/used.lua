-- Return what is settled and reserved of a month's quota. KEYS: reserved, settled
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
return (tonumber(redis.call('GET', KEYS[2])) or 0) + redis.call('ZCOUNT', KEYS[1], '(' .. now_ms, '+inf')
