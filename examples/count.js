// Counts its own runs in the target's key-value store.
// /// orvalho
// needs = ["target.kv.read:count", "target.kv.write:count"]
// ///
export default async function ({ target }) {
  const count = ((await target.kv.get("count")) ?? 0) + 1;
  await target.kv.put("count", count);
  return count;
}
