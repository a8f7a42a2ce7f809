//! Width and height of pictures, by their first bytes: PNG, GIF, JPEG, WebP and BMP.
//!
//! A program of WASI preview 1 without a standard library. Its arguments are paths in the target's
//! tree; it prints a line a picture, `800x600 PNG /album/a.png`, and exits with 1 when one was none.

const Slice = extern struct { at: [*]u8, size: u32 };

const wasi = struct {
    extern "wasi_snapshot_preview1" fn args_sizes_get(count: *u32, size: *u32) u32;
    extern "wasi_snapshot_preview1" fn args_get(list: [*][*:0]u8, text: [*]u8) u32;
    extern "wasi_snapshot_preview1" fn path_open(
        folder: u32,
        follow: u32,
        path: [*]const u8,
        size: u32,
        how: u32,
        rights: u64,
        inherited: u64,
        flags: u32,
        file: *u32,
    ) u32;
    extern "wasi_snapshot_preview1" fn fd_read(file: u32, to: *const Slice, count: u32, got: *u32) u32;
    extern "wasi_snapshot_preview1" fn fd_write(file: u32, from: *const Slice, count: u32, put: *u32) u32;
    extern "wasi_snapshot_preview1" fn fd_close(file: u32) u32;
    extern "wasi_snapshot_preview1" fn proc_exit(status: u32) noreturn;
};

const tree: u32 = 3; // the folder `/`, which is open as 3
const may_read: u64 = 2;

// A JPEG may carry a preview and a colour profile before it says its size.
var head: [256 * 1024]u8 = undefined;
var line: [2048]u8 = undefined;
var line_size: usize = 0;
var arguments: [64][*:0]u8 = undefined;
var texts: [16384]u8 = undefined;

const Picture = struct { kind: []const u8, width: u32, height: u32 };

fn big(at: []const u8, comptime size: usize) u32 {
    var value: u32 = 0;
    for (at[0..size]) |byte| value = value << 8 | byte;
    return value;
}

fn little(at: []const u8, comptime size: usize) u32 {
    var value: u32 = 0;
    var index: usize = size;
    while (index > 0) {
        index -= 1;
        value = value << 8 | at[index];
    }
    return value;
}

fn begins(text: []const u8, with: []const u8) bool {
    if (text.len < with.len) return false;
    for (with, 0..) |byte, index| if (text[index] != byte) return false;
    return true;
}

fn jpeg(bytes: []const u8) ?Picture {
    var at: usize = 2;
    while (at + 9 < bytes.len) {
        if (bytes[at] != 0xFF) return null;
        const marker = bytes[at + 1];
        if (marker == 0xFF) {
            at += 1; // padding
            continue;
        }
        // A frame's header: all of C0 to CF but tables of Huffman (C4), arithmetic (CC), and C8.
        if (marker >= 0xC0 and marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC)
            return .{ .kind = "JPEG", .width = big(bytes[at + 7 ..], 2), .height = big(bytes[at + 5 ..], 2) };
        at += 2 + @as(usize, big(bytes[at + 2 ..], 2));
    }
    return null;
}

fn webp(bytes: []const u8) ?Picture {
    const form = bytes[12..16];
    if (begins(form, "VP8X"))
        return .{ .kind = "WebP", .width = little(bytes[24..], 3) + 1, .height = little(bytes[27..], 3) + 1 };
    if (begins(form, "VP8L")) {
        const bits = little(bytes[21..], 4);
        return .{ .kind = "WebP", .width = (bits & 0x3FFF) + 1, .height = (bits >> 14 & 0x3FFF) + 1 };
    }
    if (begins(form, "VP8 "))
        return .{ .kind = "WebP", .width = little(bytes[26..], 2) & 0x3FFF, .height = little(bytes[28..], 2) & 0x3FFF };
    return null;
}

fn look(bytes: []const u8) ?Picture {
    if (bytes.len < 30) return null;
    if (begins(bytes, "\x89PNG\r\n\x1a\n"))
        return .{ .kind = "PNG", .width = big(bytes[16..], 4), .height = big(bytes[20..], 4) };
    if (begins(bytes, "GIF8"))
        return .{ .kind = "GIF", .width = little(bytes[6..], 2), .height = little(bytes[8..], 2) };
    if (begins(bytes, "BM"))
        return .{ .kind = "BMP", .width = little(bytes[18..], 4), .height = little(bytes[22..], 4) };
    if (begins(bytes, "RIFF") and begins(bytes[8..], "WEBP")) return webp(bytes);
    if (begins(bytes, "\xff\xd8")) return jpeg(bytes);
    return null;
}

fn put(text: []const u8) void {
    for (text) |byte| if (line_size < line.len) {
        line[line_size] = byte;
        line_size += 1;
    };
}

fn putNumber(value: u32) void {
    var digits: [10]u8 = undefined;
    var count: usize = digits.len;
    var left = value;
    while (true) {
        count -= 1;
        digits[count] = '0' + @as(u8, @intCast(left % 10));
        left /= 10;
        if (left == 0) break;
    }
    put(digits[count..]);
}

fn flush(file: u32) void {
    put("\n");
    const from = Slice{ .at = &line, .size = @intCast(line_size) };
    var written: u32 = 0;
    _ = wasi.fd_write(file, &from, 1, &written);
    line_size = 0;
}

fn read(path: []const u8) ?[]const u8 {
    const relative = if (begins(path, "/")) path[1..] else path;
    var file: u32 = 0;
    if (wasi.path_open(tree, 0, relative.ptr, relative.len, 0, may_read, 0, 0, &file) != 0) return null;
    defer _ = wasi.fd_close(file);
    var size: usize = 0;
    while (size < head.len) {
        const to = Slice{ .at = head[size..].ptr, .size = @intCast(head.len - size) };
        var got: u32 = 0;
        if (wasi.fd_read(file, &to, 1, &got) != 0) return null;
        if (got == 0) break;
        size += got;
    }
    return head[0..size];
}

fn tell(path: []const u8) bool {
    const bytes = read(path) orelse {
        put("cannot be read: ");
        put(path);
        flush(2);
        return false;
    };
    const picture = look(bytes) orelse {
        put("no picture: ");
        put(path);
        flush(2);
        return false;
    };
    putNumber(picture.width);
    put("x");
    putNumber(picture.height);
    put(" ");
    put(picture.kind);
    put(" ");
    put(path);
    flush(1);
    return true;
}

export fn _start() void {
    var count: u32 = 0;
    var size: u32 = 0;
    _ = wasi.args_sizes_get(&count, &size);
    if (count > arguments.len or size > texts.len) wasi.proc_exit(2);
    _ = wasi.args_get(&arguments, &texts);
    var all = true;
    var index: usize = 1;
    while (index < count) : (index += 1) {
        const text = arguments[index];
        var end: usize = 0;
        while (text[end] != 0) end += 1;
        all = tell(text[0..end]) and all;
    }
    if (!all) wasi.proc_exit(1);
}
