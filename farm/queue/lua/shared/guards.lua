-- What comes first: who may not write, whose lease is dead, and what may not be claimed.

-- What a verb does before it writes: submitters may write nothing, and may not even look at `workers`, so it ends here.
local function refuse_submitters()
  redis.call('EXISTS', key('workers'))
end

-- The fence: whether `epoch` is the live lease of the run. A running run is in `leases`, and no other is.
local function holds(id, epoch)
  refuse_submitters()
  return redis.call('ZSCORE', key('leases'), id) and get(id, 'epoch') == epoch
end

-- What may not be claimed on `nodes` (ids joined by '+'): the runs of the studies that ARGV names from `start` on, and
-- those whose corpus is paused (Q11). A function from the id; nil when everything may be.
local function barred(start, nodes)
  local studies, paused, is_any = {}, {}, false
  for i = start, #ARGV do
    studies[ARGV[i]], is_any = true, true
  end
  for _, place in ipairs(redis.call('HKEYS', key('paused'))) do
    paused[place], is_any = true, true
  end
  return is_any and function(id)
    local study, corpus = unpack(redis.call('HMGET', key('run', id), 'study', 'corpus'))
    local place = (study or '') .. ' ' .. (corpus or '')
    local is_barred = studies[study] or paused[place]
    for node in nodes:gmatch('[^+]+') do
      is_barred = is_barred or paused[place .. ' ' .. node]
    end
    return is_barred
  end
end

-- Whatever is paused of these places, a set of "<study> <corpus>", is so no longer.
local function resume(places)
  for _, place in ipairs(redis.call('HKEYS', key('paused'))) do
    if places[place:match('^%S+ %S+')] then
      redis.call('HDEL', key('paused'), place)
    end
  end
end
