// Empties the albums. The default policy lets nobody do this, not even the owner's own devices.
// /// orvalho
// needs = ["target.fs.read:/shared/albums/**", "target.fs.remove:/shared/albums/**"]
// ///
export default async function ({ target, log }) {
  let removed = 0;
  for (const album of await target.fs.list("/shared/albums")) {
    await target.fs.remove(`/shared/albums/${album.name}`, { recursive: true });
    log(`removed ${album.name}`);
    removed += 1;
  }
  return { removed };
}
