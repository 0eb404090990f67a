//! The previews' scripts for Redis: each is one atomic step and one round trip, by the server's own clock.
//!
//! Numbers in Lua are doubles: times in milliseconds and versions up to 2^53 - 1 are exact in them. A number that a
//! script answers is cut to an integer; `false` is answered as nil.

use redis::Script;
use runwarden_actors::ports::LimitWindow;
use uuid::Uuid;

use super::redis::NOW;

/// How long a generation is kept: much longer than any access source is waited for. One that has run out matches
/// nothing, so that an answer from before it is dropped and asked again.
const GENERATION: &str = r"
local function generation_of(key)
  local generation = redis.call('GET', key)
  if not generation then
    generation = string.format('%.0f', now)
    redis.call('SET', key, generation, 'PX', 600000)
  end
  return tonumber(generation)
end
";
const REMEMBERED: &str = r"
local known = redis.call('GET', KEYS[1])
if known then return {1, known == '1' and 1 or 0} end
return {0, generation_of(KEYS[2])}
";
const REMEMBER: &str = r"
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3]) end
return 0
";
// The clock may have stood still or gone back since the last generation; the next one is always another.
const FORGET: &str = r"
redis.call('DEL', KEYS[1])
local before = tonumber(redis.call('GET', KEYS[2]) or '0')
redis.call('SET', KEYS[2], string.format('%.0f', math.max(now, before + 1)), 'PX', 600000)
return 0
";
const USE_ONCE: &str = r"
if redis.call('EXISTS', unpack(KEYS)) > 0 then return 0 end
for _, key in ipairs(KEYS) do redis.call('SET', key, '1', 'PX', ARGV[1]) end
return 1
";
/// All windows are looked at before one of them is counted. A counter without an end would be full for ever; it gets
/// one when it is found full. `rules` has limit and length of each window.
const WINDOWS: &str = r"
local function room(windows, used, first_used, rules)
  local least = math.huge
  for i = 0, windows - 1 do
    local left = rules[1 + 2 * i] - (used[first_used + i] or 0)
    if left < least then least = left end
  end
  return least
end
local function fullest(first_key, windows, used, first_used, rules, more)
  local which, wait = 0, 0
  for i = 0, windows - 1 do
    if (used[first_used + i] or 0) + more >= tonumber(rules[1 + 2 * i]) then
      local key, span = KEYS[first_key + i], rules[2 + 2 * i]
      local left = redis.call('PTTL', key)
      if left == -1 then redis.call('PEXPIRE', key, span) end
      if left < 0 then left = tonumber(span) end
      if left < 1 then left = 1 end
      if left > wait then which, wait = i + 1, left end
    end
  end
  return which, wait
end
local function count(first_key, windows, used, first_used, rules, by)
  for i = 0, windows - 1 do
    if used[first_used + i] then redis.call('INCRBY', KEYS[first_key + i], by)
    else redis.call('SET', KEYS[first_key + i], by, 'PX', rules[2 + 2 * i]) end
  end
end
";
const COUNT_ALL: &str = r"
local used = redis.call('MGET', unpack(KEYS))
local which, wait = fullest(1, #KEYS, used, 1, ARGV, 0)
if which > 0 then return {5, which - 1, wait} end
count(1, #KEYS, used, 1, ARGV, '1')
return {0, 0, 0}
";
/// Several groups of admissions; those of one differ only in their slots. Keys of each group: revocation, access,
/// generation, slots, windows. The only argument holds the numbers of all of them, packed by [`pack`]: to read each from
/// an argument of its own would cost more than to admit.
///
/// The answer is three numbers for each slot asked for, in order. Slots that have run out are looked for where there is
/// no other left. Numbers that go into many commands are printed once.
const ADMIT: &str = r"
local packed, at, key, answers = ARGV[1], 1, 0, {}
local function tell(outcome, first, second)
  local last = #answers
  answers[last + 1], answers[last + 2], answers[last + 3] = outcome, first, second
end
local function slot()
  at = at + 16
  return string.sub(packed, at - 16, at - 1)
end
while at <= #packed do
  local windows, wanted, back, asked, slots_max, span
  windows, wanted, back, asked, slots_max, span, at = struct.unpack('<I4I4I4ddd', packed, at)
  local rules = {struct.unpack('<' .. string.rep('d', 2 * windows), packed, at)}
  at = rules[2 * windows + 1]
  local slots, ask, free = KEYS[key + 4], {}, {}
  for i = 1, wanted do ask[i] = slot() end
  for i = 1, back do free[i] = slot() end
  if back > 0 then redis.call('ZREM', slots, unpack(free)) end
  local known = redis.call('MGET', KEYS[key + 1], KEYS[key + 2], unpack(KEYS, key + 5, key + 4 + windows))
  local version = tonumber(known[1])
  local refused, why = nil, 0
  if not version or version < asked then refused = 1
  elseif version > asked then refused = 2
  elseif not known[2] then refused, why = 3, generation_of(KEYS[key + 3])
  elseif known[2] ~= '1' then refused = 4 end
  if refused then
    for _ = 1, wanted do tell(refused, why, 0) end
  else
    local uses = room(windows, known, 3, rules)
    local held = redis.call('ZCARD', slots)
    if held + wanted > slots_max then
      redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
      held = redis.call('ZCARD', slots)
    end
    local taken, until_ms = {}, string.format('%.0f', now + span)
    for i = 1, wanted do
      local count = #taken / 2
      if count >= uses then
        local which, wait = fullest(key + 5, windows, known, 3, rules, count)
        tell(5, which - 1, wait)
      elseif held + count >= slots_max and not redis.call('ZSCORE', slots, ask[i]) then
        tell(6, 0, 0)
      else
        taken[2 * count + 1], taken[2 * count + 2] = until_ms, ask[i]
        tell(0, 0, 0)
      end
    end
    if #taken > 0 then
      count(key + 5, windows, known, 3, rules, string.format('%d', #taken / 2))
      hold(slots, span, taken)
    end
  end
  key = key + 4 + windows
end
return answers
";
/// The set outlives its last slot by one more span at the most, so that its end is written seldom.
const HOLD: &str = r"
local function hold(slots, span, taken)
  redis.call('ZADD', slots, unpack(taken))
  if redis.call('PTTL', slots) < tonumber(span) then redis.call('PEXPIRE', slots, 2 * span) end
end
";
const EXTEND: &str = r"
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not until_ms or tonumber(until_ms) <= now then return 0 end
hold(KEYS[1], tonumber(ARGV[2]), {now + ARGV[2], ARGV[1]})
return 1
";
/// Arguments: for each key the number of its slots, and the slots.
const FREE: &str = r"
local at = 1
for _, key in ipairs(KEYS) do
  local last = at + tonumber(ARGV[at])
  redis.call('ZREM', key, unpack(ARGV, at + 1, last))
  at = last + 1
end
return 0
";
const ANNOUNCE: &str = r"
local known = tonumber(redis.call('GET', KEYS[1]) or '-1')
local version = tonumber(ARGV[1])
if version < known then return 0 end
local life = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', life)
return 0
";
const VERSIONS: &str = r"return redis.call('MGET', unpack(KEYS))";

/// Keys: `active_kid`, `prev_kid`. First argument: what stands before a kid in its key.
///
/// The answer is kid and JSON of the active key, then kid, JSON and last instant of the previous one.
const RING: &str = r"
local prefix = ARGV[1]
local function ring()
  local active, previous = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
  local answer = {active, redis.call('GET', prefix .. active)}
  if previous then
    local secret, left = redis.call('GET', prefix .. previous), redis.call('PTTL', KEYS[2])
    if secret and left > 0 then
      answer[3], answer[4], answer[5] = previous, secret, now + left
    end
  end
  return answer
end
local function activate(kid, json)
  if redis.call('EXISTS', prefix .. kid) == 1 then return false end
  redis.call('SET', prefix .. kid, json)
  redis.call('SET', KEYS[1], kid)
  return true
end
local taken = redis.error_reply('KIDTAKEN a key of that name is there already')
";
const KEY_RING: &str = r"
if not redis.call('GET', KEYS[1]) and not activate(ARGV[2], ARGV[3]) then return taken end
return ring()
";
/// Again with the same key changes nothing. Where the active key's secret is lost there is nothing to keep.
const ROTATE: &str = r"
local active = redis.call('GET', KEYS[1])
if active == ARGV[2] then return ring() end
if not activate(ARGV[2], ARGV[3]) then return taken end
if active then
  local previous = redis.call('GET', KEYS[2])
  if previous then redis.call('DEL', prefix .. previous) end
  if redis.call('PEXPIRE', prefix .. active, ARGV[4]) == 1 then
    redis.call('SET', KEYS[2], active, 'PX', ARGV[4])
  else
    redis.call('DEL', KEYS[2])
  end
end
return ring()
";
const REVOKE: &str = r"
local active, previous = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if active and active == ARGV[2] then return ring() end
if active and active == ARGV[4] then
  if not activate(ARGV[2], ARGV[3]) then return taken end
  redis.call('DEL', prefix .. active)
  return ring()
end
if previous and previous == ARGV[4] then
  redis.call('DEL', KEYS[2], prefix .. previous)
  if not active and not activate(ARGV[2], ARGV[3]) then return taken end
  return ring()
end
return false
";

/// The numbers of one group, as [`ADMIT`] reads them.
pub(super) struct Numbers<'a> {
    pub(super) revocation_version: i64,
    pub(super) slots_max: u32,
    pub(super) slot_ms: u64,
    pub(super) windows: &'a [LimitWindow],
}

/// Adds a group to the argument of [`ADMIT`]: three counts of 4 bytes, the other numbers as doubles, which is what Lua
/// has, then 16 bytes for each slot, asked for and given back.
#[expect(clippy::cast_precision_loss, reason = "times and versions are below 2^53")]
pub(super) fn pack(
    into: &mut Vec<u8>,
    numbers: &Numbers<'_>,
    asked: impl ExactSizeIterator<Item = Uuid>,
    released: &[Uuid],
) {
    for count in [numbers.windows.len(), asked.len(), released.len()] {
        into.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    let mut number = |number: f64| into.extend_from_slice(&number.to_le_bytes());
    number(numbers.revocation_version as f64);
    number(f64::from(numbers.slots_max));
    number(numbers.slot_ms as f64);
    for window in numbers.windows {
        number(f64::from(window.limit));
        number(window.window_ms as f64);
    }
    for slot in asked.chain(released.iter().copied()) {
        into.extend_from_slice(slot.as_bytes());
    }
}

/// The scripts, hashed once.
pub(super) struct PreviewScripts {
    pub(super) use_once: Script,
    pub(super) remembered: Script,
    pub(super) remember: Script,
    pub(super) forget: Script,
    pub(super) admit: Script,
    pub(super) extend: Script,
    pub(super) free: Script,
    pub(super) count_all: Script,
    pub(super) announce: Script,
    pub(super) versions: Script,
    pub(super) key_ring: Script,
    pub(super) rotate: Script,
    pub(super) revoke: Script,
}

impl PreviewScripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        Self {
            use_once: script(&[USE_ONCE]),
            remembered: script(&[NOW, GENERATION, REMEMBERED]),
            remember: script(&[REMEMBER]),
            forget: script(&[NOW, FORGET]),
            admit: script(&[NOW, GENERATION, WINDOWS, HOLD, ADMIT]),
            extend: script(&[NOW, HOLD, EXTEND]),
            free: script(&[FREE]),
            count_all: script(&[WINDOWS, COUNT_ALL]),
            announce: script(&[ANNOUNCE]),
            versions: script(&[VERSIONS]),
            key_ring: script(&[NOW, RING, KEY_RING]),
            rotate: script(&[NOW, RING, ROTATE]),
            revoke: script(&[NOW, RING, REVOKE]),
        }
    }
}
