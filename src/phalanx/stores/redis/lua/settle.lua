-- End leases and count what is billed, once: a batch that was applied, but not answered, comes again with its number.
-- KEYS: marker, number of the sender's last batch; then for each entry: open, reserved, settled
-- ARGV: number of this batch, time a quota is kept (s); then for each entry: lease, how many are billed, generation
-- An entry without a lease is a charge. What is billed counts also when its lease has run out, but not when the counters
-- were lost since: they were filled from the ledger, which has it.
if (tonumber(redis.call('GET', KEYS[2])) or 0) >= tonumber(ARGV[1]) then return 0 end
local generation = redis.call('GET', KEYS[1])
for entry = 0, (#KEYS - 2) / 3 - 1 do
  local open, reserved, settled = KEYS[3 + entry * 3], KEYS[4 + entry * 3], KEYS[5 + entry * 3]
  local lease, billed = ARGV[3 + entry * 3], tonumber(ARGV[4 + entry * 3])
  if lease ~= '' then
    redis.call('ZREM', open, lease)
    redis.call('ZREM', reserved, lease)
  end
  if billed > 0 and generation == ARGV[5 + entry * 3] then
    redis.call('INCRBY', settled, billed)
    redis.call('EXPIRE', settled, ARGV[2])
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', 86400)
return 1
