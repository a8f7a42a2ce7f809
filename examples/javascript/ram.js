// What a node has left, for `orvalho top --program ram.js`: the columns of ram.wasm, for nodes
// without WebAssembly.
// /// orvalho
// needs = ["target.node.read:/"]
// timeout = "5s"
// ///
const used = (free, total) => (total ? Math.floor(100 - (100 * free) / total) : null);

export default async function ({ target }) {
  const facts = await target.node.facts();
  return {
    cores: facts.cores,
    load: facts.load && facts.load[0],
    ram_percent: used(facts.memory_free_bytes, facts.memory_total_bytes),
    ram_free_bytes: facts.memory_free_bytes,
    disk_percent: used(facts.disk_free_bytes, facts.disk_total_bytes),
    disk_free_bytes: facts.disk_free_bytes,
    up_s: facts.uptime_s,
  };
}
