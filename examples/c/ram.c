/* What a node has left: cores, load, memory, disk. `orvalho top` is this program, sent to all.
 *
 * It has no C library and no memory of its own beyond two pages: it asks the host for the node's
 * facts, copies the fields of the table in their order, and adds what they come to.
 */
#include "orvalho.h"

#define MOST 16384

static char facts[MOST];
static char out[MOST];
static int used;

static int length(const char *text) {
  int size = 0;
  while (text[size]) size++;
  return size;
}

static void put(const char *at, int size) {
  for (int i = 0; i < size && used < MOST; i++) out[used++] = at[i];
}

static void put_text(const char *text) { put(text, length(text)); }

static void put_number(long long value) {
  char digits[24];
  int count = 0;
  do digits[count++] = '0' + value % 10; while (value /= 10);
  while (count) put(&digits[--count], 1);
}

/* Where the value of a key begins, or 0. The host writes its JSON without blanks, and a label,
 * the only text of somebody's own in it, holds no quotation mark. */
static const char *find(const char *key, int size) {
  int key_size = length(key);
  for (int at = 0; at + key_size + 3 < size; at++) {
    if (facts[at] != '"' || facts[at + key_size + 1] != '"' || facts[at + key_size + 2] != ':')
      continue;
    int same = 1;
    for (int i = 0; i < key_size; i++) same &= facts[at + 1 + i] == key[i];
    if (same) return facts + at + key_size + 3;
  }
  return 0;
}

/* A value ends where the next key begins; of a list the first element is taken. */
static int value_size(const char *at) {
  int size = 0;
  while (at[size] && at[size] != ',' && at[size] != '}' && at[size] != ']') size++;
  return size;
}

static long long number(const char *key, int size) {
  const char *at = find(key, size);
  long long value = 0;
  if (!at) return 0;
  for (; *at >= '0' && *at <= '9'; at++) value = value * 10 + (*at - '0');
  return value;
}

static void field(const char *name, const char *key, int size) {
  const char *at = find(key, size);
  put_text(used ? ",\"" : "{\"");
  put_text(name);
  put_text("\":");
  if (!at) put_text("null");
  else if (*at == '[') put(at + 1, value_size(at + 1));
  else put(at, value_size(at));
}

static void percent(const char *name, const char *free, const char *total, int size) {
  long long all = number(total, size);
  put_text(",\"");
  put_text(name);
  put_text("\":");
  if (!all) put_text("null");
  else put_number(100 - 100 * number(free, size) / all);
}

__attribute__((export_name("run"))) void run(void) {
  static const char op[] = "target.node.facts";
  int size = orvalho_call(op, sizeof op - 1, "[]", 2);
  if (size < 0 || size >= MOST) {
    static const char refused[] = "the node does not tell its facts: target.node.read is refused";
    orvalho_fail(refused, sizeof refused - 1);
    return;
  }
  orvalho_take(facts);
  facts[size] = 0;
  field("cores", "cores", size);
  field("load", "load", size);
  percent("ram_percent", "memory_free_bytes", "memory_total_bytes", size);
  field("ram_free_bytes", "memory_free_bytes", size);
  percent("disk_percent", "disk_free_bytes", "disk_total_bytes", size);
  field("disk_free_bytes", "disk_free_bytes", size);
  field("up_s", "uptime_s", size);
  put_text("}");
  orvalho_result(out, used);
}
