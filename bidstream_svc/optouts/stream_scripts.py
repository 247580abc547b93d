"""What runs inside Redis or Valkey: one script that appends to the stream, one that looks at it.

Scripts, because reading the last entry and adding the next one has to be one step while several receivers append. They
use one key, so that they work on a cluster, and what Redis 6.2 knows.

An entry has the fields

    epoch      32 hexadecimal digits, drawn at random when the stream begins
    sequence   number of the entry in its epoch, from 1, without holes
    previous   id of the entry before it; empty for the first of a stream
    optouts    packed records; may be empty
    lost       only in an entry whose receiver found that the server has lost entries: the id of one of them

Sequence numbers alone do not tell two histories apart: after a fail-over, a replica that lagged gives the numbers of
lost entries to others. So ids are unique (milliseconds and a random number), and each entry names the one before it:
whoever has read up to an entry, and finds it as `previous` of the next, has missed nothing. `entries-added` would not
tell: it does not exist before Redis 7, and is that of another server after a fail-over.
"""

# Sets `first` and `last`, the first and last of our entries as {id, fields}, nil if there is none; and `last_id`, the
# largest id that there ever was, "" if there was none. Entries that others have added are passed over.
_LOOK = """
local key = KEYS[1]
local function milliseconds(id) return tonumber(string.match(id, '^(%d+)-')) end
local function to_table(flat)
  local found = {}
  for place = 1, #flat, 2 do found[flat[place]] = flat[place + 1] end
  return found
end
local function to_own(entry)
  if not entry then return nil end
  local fields = to_table(entry[2])
  if fields['epoch'] and fields['sequence'] and fields['previous'] and fields['optouts'] then
    return {id = entry[1], fields = fields}
  end
end
local function find_own(command, from, to)
  for _, entry in ipairs(redis.call(command, key, from, to, 'COUNT', 1000)) do
    local own = to_own(entry)
    if own then return own end
  end
end
local first, last, last_id = nil, nil, ''
if redis.call('EXISTS', key) == 1 then
  local info = to_table(redis.call('XINFO', 'STREAM', key))
  last_id = info['last-generated-id']
  first = to_own(info['first-entry']) or find_own('XRANGE', '-', '+')
  last = to_own(info['last-entry']) or find_own('XREVRANGE', '+', '-')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# ARGV: id of the caller's last entry or "", the newest id that it knows or "", new epoch, random number, packed
# opt-outs or "", lost id or "", retention in ms, ms after which an entry without opt-outs is appended.
APPEND = (
    _LOOK
    + """
local own, known, epoch, random, optouts, lost = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local oldest, idle = now - tonumber(ARGV[7]), tonumber(ARGV[8])
if own ~= '' and milliseconds(own) >= oldest and #redis.call('XRANGE', key, own, own) == 0 then
  return {'lost', '', '', ''}
end
local sequence, previous, keep = '0', '', oldest
if last then
  epoch, sequence, previous = last.fields['epoch'], last.fields['sequence'], last.id
  if optouts == '' and lost == '' and now - milliseconds(last.id) < idle then
    return {'checked', last.id, epoch, sequence}
  end
  -- The last entry stays, or the sequence would begin anew if adding fails.
  keep = math.min(oldest, milliseconds(last.id))
elseif lost == '' then
  lost = known
end
if last_id ~= '' then now = math.max(now, milliseconds(last_id) + 1) end
local id = string.format('%.0f', now) .. '-' .. random
sequence = string.format('%.0f', tonumber(sequence) + 1)
local entry = {'epoch', epoch, 'sequence', sequence, 'previous', previous, 'optouts', optouts}
if lost ~= '' then
  entry[9], entry[10] = 'lost', lost
end
-- First, because a script that has written is exempt from the limit of memory. What is removed also if adding fails
-- makes room for the next attempt.
local added = redis.pcall('XADD', key, id, unpack(entry))
redis.call('XTRIM', key, 'MINID', string.format('%.0f', keep))
if type(added) == 'table' and added['err'] then return added end
return {'appended', id, epoch, sequence}
"""
)

# ARGV: ids, the newest first. Returns the last entry's id, epoch and sequence; the first's id, sequence and previous;
# and the place in ARGV of the first id that the stream holds, 0 for none. Strings are empty if there is no entry.
INSPECT = (
    _LOOK
    + """
local place_found = 0
for place, id in ipairs(ARGV) do
  if #redis.call('XRANGE', key, id, id) == 1 then
    place_found = place
    break
  end
end
local nothing = {id = '', fields = {}}
first, last = first or nothing, last or nothing
return {last.id, last.fields['epoch'] or '', last.fields['sequence'] or '',
        first.id, first.fields['sequence'] or '', first.fields['previous'] or '', tostring(place_found)}
"""
)
