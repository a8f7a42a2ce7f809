// Files that nobody has changed for long, the oldest first: `--param days=365 --param folder=/shared`.
// /// orvalho
// wants = ["target.fs.read:/**"]
// timeout = "30s"
// ///
interface Entry {
  name: string;
  type: string;
  size: number;
  /** Milliseconds since 1970. */
  modified: number;
}

interface Job {
  target: { fs: { list(path: string): Promise<Entry[]> } };
  params: { folder?: string; days?: number; most?: number } | null;
}

type Stale = { path: string; size: number; days: number };

const DAY_MS = 86_400_000;

export default async function ({ target, params }: Job): Promise<Stale[]> {
  const { folder = "/shared", days = 365, most = 20 } = params ?? {};
  const now: number = Date.now();
  const found: Stale[] = [];
  const waiting: string[] = [folder];
  while (waiting.length > 0) {
    const path = waiting.pop() as string;
    for (const entry of await target.fs.list(path)) {
      const inner = `${path === "/" ? "" : path}/${entry.name}`;
      const age = Math.floor((now - entry.modified) / DAY_MS);
      if (entry.type !== "file") waiting.push(inner);
      else if (age >= days) found.push({ path: inner, size: entry.size, days: age });
    }
  }
  return found.sort((a, b) => b.days - a.days).slice(0, most);
}
