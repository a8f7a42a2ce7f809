// Sums up one album and leaves the summary in the target's inbox.
// /// orvalho
// needs = ["target.fs.read:/shared/albums/**", "target.fs.write:/inbox/**"]
// timeout = "10s"
// ///
export default async function ({ caller, target, params, log }) {
  const folder = `/shared/albums/${params.album}`;
  let files = 0;
  let bytes = 0;
  for (const entry of await target.fs.list(folder)) {
    log(`${entry.name}: ${entry.size} bytes`);
    files += 1;
    bytes += entry.size;
  }
  const summary = { album: params.album, files, bytes };
  await target.fs.write(`/inbox/album-${params.album}.json`, JSON.stringify(summary));
  return summary;
}
