-- Raise settled counts to what the ledger says.
-- KEYS: settled of each subject. ARGV: time a quota is kept (s); then the count of each subject
for entry = 1, #KEYS do
  if (tonumber(redis.call('GET', KEYS[entry])) or 0) < tonumber(ARGV[entry + 1]) then
    redis.call('SET', KEYS[entry], ARGV[entry + 1], 'EX', ARGV[1])
  end
end
