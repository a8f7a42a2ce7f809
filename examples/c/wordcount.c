/* Lines, words and bytes of every text in a folder and the folders in it, as `wc` counts them.
 *
 * A program of WASI preview 1: the folder `/` is the target's tree. Its arguments are folders or
 * files, `/notes` where there are none. Prints a line a file and the total, and stops at what the
 * rules do not let it read.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DEEPEST 32
#define LONGEST 1024

typedef struct {
  unsigned long long files, lines, words, bytes;
} Counts;

static Counts total;
static int refused;

static int complain(const char *path) {
  fprintf(stderr, "%s: %s\n", path, strerror(errno));
  refused++;
  return 0;
}

static int count_file(const char *path) {
  static char block[16384];
  Counts one = {1, 0, 0, 0};
  int in_word = 0;
  FILE *file = fopen(path, "rb");
  if (!file) return complain(path);
  for (size_t got; (got = fread(block, 1, sizeof block, file)) > 0; one.bytes += got)
    for (size_t at = 0; at < got; at++) {
      int is_blank = block[at] == ' ' || (block[at] >= '\t' && block[at] <= '\r');
      one.lines += block[at] == '\n';
      one.words += !is_blank && !in_word;
      in_word = !is_blank;
    }
  int failed = ferror(file);
  fclose(file);
  if (failed) return complain(path);
  printf("%8llu %8llu %8llu %s\n", one.lines, one.words, one.bytes, path);
  total.files++, total.lines += one.lines, total.words += one.words, total.bytes += one.bytes;
  return 1;
}

static int count(const char *path, int depth) {
  struct stat is;
  if (stat(path, &is)) return complain(path);
  if (!S_ISDIR(is.st_mode)) return count_file(path);
  if (depth == DEEPEST) return 0;
  DIR *folder = opendir(path);
  if (!folder) return complain(path);
  for (struct dirent *entry; (entry = readdir(folder));) {
    char inner[LONGEST];
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
    int size = snprintf(inner, sizeof inner, "%s%s%s", path, slash, entry->d_name);
    if (size < (int)sizeof inner) count(inner, depth + 1);
  }
  closedir(folder);
  return 1;
}

int main(int count_of, char **given) {
  if (count_of < 2) count("/notes", 0);
  for (int at = 1; at < count_of; at++) count(given[at], 0);
  printf("%8llu %8llu %8llu total of %llu files\n", total.lines, total.words, total.bytes,
         total.files);
  return refused ? 1 : 0;
}
