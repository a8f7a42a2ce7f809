/* One of the kernels, natively: `native NAME SIZE` prints its answer and its processor seconds. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int fib(int), sieve(int), matmul(int), matrows(int), sha256(int), nbody(int);

static double now(void) {
    struct timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return (double)spent.tv_sec + (double)spent.tv_nsec / 1e9;
}

int main(int count, char **words) {
    static const struct { const char *name; int (*run)(int); } known[] = {
        {"fib", fib}, {"sieve", sieve}, {"matmul", matmul},
        {"matrows", matrows}, {"sha256", sha256}, {"nbody", nbody}};
    for (int i = 0; count == 3 && i < 6; i++)
        if (!strcmp(words[1], known[i].name)) {
            double start = now();
            int answer = known[i].run(atoi(words[2]));
            printf("%d %.6f\n", answer, now() - start);
            return 0;
        }
    return 2;
}
