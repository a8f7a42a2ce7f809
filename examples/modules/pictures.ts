/** An entry of a folder, as `target.fs.list` tells of it. */
interface Entry {
  name: string;
  size?: number;
}

export type Picture = { name: string; alt: string };

const ENDINGS: readonly string[] = [".jpg", ".jpeg", ".png", ".webp"];

/** The pictures among the entries of a folder, by name. */
export function pictures(entries: ReadonlyArray<Entry | string>): Picture[] {
  const names = entries.map((each): string => (typeof each === "string" ? each : each.name));
  return names
    .filter((name) => ENDINGS.some((ending) => name.toLowerCase().endsWith(ending)))
    .sort()
    .map((name) => ({ name, alt: name.replace(/\.[^.]*$/, "") }) satisfies Picture);
}
