// Reads the sender's notes and keeps them on the target: both contexts in one script.
// Send it with `--expose /notes`: without that the sender's own side refuses.
// /// orvalho
// needs = ["caller.fs.read:/notes/**", "target.fs.write:/inbox/**"]
// ///
export default async function ({ caller, target, log }) {
  const kept = [];
  for (const entry of await caller.fs.list("/notes")) {
    const note = await caller.fs.read(`/notes/${entry.name}`);
    await target.fs.write(`/inbox/${entry.name}`, note);
    log(`${entry.name}: ${note.length} bytes from ${caller.name}`);
    kept.push(entry.name);
  }
  return kept;
}
