// Sums each column of a table in a text file of the target's, `name,price\nfig,3.5\n...`, as it
// lies there: no row leaves the node. `--param file=/shared/sales.csv`; rows that hold no number in
// a column count there as none. A field may stand in quotation marks, with "" for one of them.

@external("orvalho", "params")
declare function orvalho_params(): i32;
@external("orvalho", "call")
declare function orvalho_call(op: usize, opSize: i32, list: usize, listSize: i32): i32;
@external("orvalho", "take")
declare function orvalho_take(at: usize): void;
@external("orvalho", "result")
declare function orvalho_result(at: usize, size: i32): void;
@external("orvalho", "fail")
declare function orvalho_fail(at: usize, size: i32): void;

function fail(why: string): void {
  const text = String.UTF8.encode(why);
  orvalho_fail(changetype<usize>(text), text.byteLength);
}

function take(size: i32): string {
  const bytes = new ArrayBuffer(size);
  orvalho_take(changetype<usize>(bytes));
  return String.UTF8.decode(bytes);
}

/** The JSON text behind `"key":`, which is written without blanks; "" when there is none. */
function field(json: string, key: string): string {
  const start = json.indexOf('"' + key + '":');
  if (start < 0) return "";
  let at = start + key.length + 3;
  while (at < json.length && json.charCodeAt(at) == 0x20) at++;
  if (at >= json.length || json.charAt(at) != '"') return "";
  let end = at + 1;
  while (end < json.length && json.charAt(end) != '"') end += json.charAt(end) == "\\" ? 2 : 1;
  return json.substring(at, end + 1);
}

/** What a JSON string says; of escapes those that a table needs. */
function unquote(text: string): string {
  let out = "";
  for (let at = 1; at < text.length - 1; at++) {
    if (text.charAt(at) != "\\") {
      out += text.charAt(at);
      continue;
    }
    at++;
    const escape = text.charAt(at);
    if (escape == "n") out += "\n";
    else if (escape == "r") out += "\r";
    else if (escape == "t") out += "\t";
    else if (escape == "u") {
      out += String.fromCharCode(I32.parseInt(text.substring(at + 1, at + 5), 16));
      at += 4;
    } else out += escape;
  }
  return out;
}

function quote(text: string): string {
  let out = '"';
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code == 0x22 || code == 0x5c) out += "\\" + text.charAt(at);
    else if (code < 0x20) out += " ";
    else out += text.charAt(at);
  }
  return out + '"';
}

function fields(line: string): string[] {
  const found: string[] = [];
  let one = "";
  let quoted = false;
  for (let at = 0; at < line.length; at++) {
    const letter = line.charAt(at);
    if (quoted) {
      if (letter != '"') one += letter;
      else if (line.charAt(at + 1) == '"') {
        one += letter;
        at++;
      } else quoted = false;
    } else if (letter == '"') quoted = true;
    else if (letter == ",") {
      found.push(one);
      one = "";
    } else one += letter;
  }
  found.push(one);
  return found;
}

/** A number, or NaN: `12`, `-3.5`, `1e3`, with blanks around it. */
function numberOf(text: string): f64 {
  const bare = text.trim();
  for (let at = 0; at < bare.length; at++) {
    const code = bare.charCodeAt(at);
    const isSign = code == 0x2b || code == 0x2d || code == 0x2e || code == 0x45 || code == 0x65;
    if ((code < 0x30 || code > 0x39) && !isSign) return NaN;
  }
  return bare.length ? F64.parseFloat(bare) : NaN;
}

export function run(): void {
  const file = field(take(orvalho_params()), "file");
  if (!file.length) return fail("give it a file: --param file=/shared/sales.csv");
  const op = String.UTF8.encode("target.fs.readText");
  const list = String.UTF8.encode("[" + file + "]");
  const size = orvalho_call(
    changetype<usize>(op), op.byteLength, changetype<usize>(list), list.byteLength,
  );
  if (size < 0) return fail("it cannot be read: " + take(-size));
  const lines = unquote(take(size)).split("\n");
  const names = fields(lines[0].trim());
  const sums = new Array<f64>(names.length).fill(0);
  const counts = new Array<i32>(names.length).fill(0);
  let rows = 0;
  for (let at = 1; at < lines.length; at++) {
    if (!lines[at].trim().length) continue;
    rows++;
    const cells = fields(lines[at]);
    for (let column = 0; column < names.length && column < cells.length; column++) {
      const value = numberOf(cells[column]);
      if (!isFinite(value)) continue;
      sums[column] += value;
      counts[column]++;
    }
  }
  let out = '{"rows":' + rows.toString();
  for (let column = 0; column < names.length; column++) {
    if (counts[column] && isFinite(sums[column]))
      out += "," + quote(names[column]) + ":" + sums[column].toString();
  }
  const text = String.UTF8.encode(out + "}");
  orvalho_result(changetype<usize>(text), text.byteLength);
}
