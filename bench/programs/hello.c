/* The least that a program of WASI does: one line on its standard output. */

#include <unistd.h>

int main(void) { return write(1, "hello\n", 6) == 6 ? 0 : 1; }
