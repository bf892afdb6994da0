-- speeds: what a page of runs reached that have finished, not of those that adopted a result. Runs of one arm of a study
-- on one machine class have one recipe, so that one of them stands for it.
--
-- KEYS[1] prefix    reads: order, run, studies
-- ARGV    where the page begins, '' for the first one; most runs to look at
-- returns {where the next page begins or '', {machine class, spec JSON of the first, {id, tokens a second, ...}}, ...}

local ids, rest = page_of(key('order'), ARGV[1], tonumber(ARGV[2]))
local found, places, submitted = { rest }, {}, {}
for _, id in ipairs(ids) do
  local speed, machine, study, arm = unpack(redis.call('HMGET', key('run', id), 'speed', 'machine', 'study', 'arm'))
  if speed and speed ~= '' then
    if submitted[study] == nil then
      submitted[study] = redis.call('HEXISTS', key('studies'), study) == 1
    end
    local place = submitted[study] and study .. ' ' .. arm .. ' ' .. machine or id
    local group = places[place]
    if not group then
      group = { machine, get(id, 'spec'), {} }
      places[place], found[#found + 1] = group, group
    end
    table.insert(group[3], id)
    table.insert(group[3], speed)
  end
end
return found
