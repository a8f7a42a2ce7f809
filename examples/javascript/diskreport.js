// Where the room of a tree went: each folder with all that lies in it, the largest first.
// `--param folder=/shared --param most=5`. Folders that the rules hide are named, not looked into.
// /// orvalho
// wants = ["target.fs.read:/**"]
// timeout = "30s"
// ///
export default async function ({ target, params }) {
  const top = params?.folder ?? "/shared";
  const most = params?.most ?? 10;
  const folders = [];
  const hidden = [];

  const measure = async (path) => {
    let bytes = 0;
    let files = 0;
    let entries = [];
    try {
      entries = await target.fs.list(path);
    } catch (error) {
      if (path === top || error.code !== "denied") throw error;
      hidden.push(path);
    }
    for (const entry of entries) {
      const inner = path === "/" ? `/${entry.name}` : `${path}/${entry.name}`;
      const one = entry.type === "directory"
        ? await measure(inner)
        : { bytes: entry.size, files: 1 };
      bytes += one.bytes;
      files += one.files;
    }
    folders.push({ path, files, bytes });
    return { bytes, files };
  };

  const total = await measure(top);
  folders.sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1));
  return { ...total, folders: folders.slice(0, most), hidden };
}
