/* Loops that compute and call nothing: each takes a size and answers a number by which its
   work is known to be done. Built natively and as WebAssembly from this one text (`build.py`). */

#define EXPORT __attribute__((visibility("default"), noinline))

typedef unsigned int u32;
typedef unsigned char u8;

static u32 fibonacci(u32 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

EXPORT int fib(int n) { return (int)fibonacci((u32)n); }

#define MOST_NUMBERS 2000000
static u8 is_composite[MOST_NUMBERS];

/* How many primes there are below two million, `times` times. */
EXPORT int sieve(int times) {
    int found = 0;
    while (times-- > 0) {
        found = 0;
        for (int i = 0; i < MOST_NUMBERS; i++) is_composite[i] = 0;
        for (int i = 2; i < MOST_NUMBERS; i++) {
            if (is_composite[i]) continue;
            found++;
            if (i > MOST_NUMBERS / i) continue;
            for (int j = i * i; j < MOST_NUMBERS; j += i) is_composite[j] = 1;
        }
    }
    return found;
}

#define SIDE 256
static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

static void fill(void) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            left[i][j] = (i * 3 + j) % 7;
            right[i][j] = (i + j * 5) % 11;
        }
}

/* The product of two matrices of 256 rows, `times` times, as a textbook has it. */
EXPORT int matmul(int times) {
    double sum = 0;
    fill();
    while (times-- > 0) {
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) {
                double dot = 0;
                for (int k = 0; k < SIDE; k++) dot += left[i][k] * right[k][j];
                product[i][j] = dot;
            }
        left[times % SIDE][0] += 1;
        sum += product[times % SIDE][1];
    }
    return (int)sum;
}

/* The same by rows: a native compiler makes vector instructions of it. */
EXPORT int matrows(int times) {
    double sum = 0;
    fill();
    while (times-- > 0) {
        for (int i = 0; i < SIDE; i++) {
            for (int j = 0; j < SIDE; j++) product[i][j] = 0;
            for (int k = 0; k < SIDE; k++) {
                double factor = left[i][k];
                for (int j = 0; j < SIDE; j++) product[i][j] += factor * right[k][j];
            }
        }
        left[times % SIDE][0] += 1;
        sum += product[times % SIDE][1];
    }
    return (int)sum;
}

static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static u32 turn(u32 x, int by) { return x >> by | x << (32 - by); }

static void block(u32 *state, const u32 *words) {
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++) w[i] = words[i];
    for (int i = 16; i < 64; i++) {
        u32 a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
        u32 b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    for (int i = 0; i < 8; i++) s[i] = state[i];
    for (int i = 0; i < 64; i++) {
        u32 a = turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25);
        u32 one = s[7] + a + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        u32 b = turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22);
        u32 two = b + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        for (int j = 7; j > 0; j--) s[j] = s[j - 1];
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

/* The rounds of SHA-256 (FIPS 180-4) over so many blocks. */
EXPORT int sha256(int blocks) {
    u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    u32 words[16] = {0};
    while (blocks-- > 0) {
        words[0] = (u32)blocks;
        block(state, words);
    }
    return (int)state[0];
}

#define BODIES 5
static double at[BODIES][3], speed[BODIES][3], mass[BODIES];

/* The planets' way in so many steps. */
EXPORT int nbody(int steps) {
    for (int i = 0; i < BODIES; i++) {
        mass[i] = i ? 0.001 * i : 39.5;
        for (int d = 0; d < 3; d++) {
            at[i][d] = i * (3.0 + d);
            speed[i][d] = i ? 0.1 * (d - 1) + 0.01 * i : 0;
        }
    }
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double x = at[i][0] - at[j][0], y = at[i][1] - at[j][1], z = at[i][2] - at[j][2];
                double square = x * x + y * y + z * z + 0.01;
                double pull = 0.001 / (square * __builtin_sqrt(square));
                speed[i][0] -= x * mass[j] * pull, speed[j][0] += x * mass[i] * pull;
                speed[i][1] -= y * mass[j] * pull, speed[j][1] += y * mass[i] * pull;
                speed[i][2] -= z * mass[j] * pull, speed[j][2] += z * mass[i] * pull;
            }
        for (int i = 0; i < BODIES; i++)
            for (int d = 0; d < 3; d++) at[i][d] += 0.001 * speed[i][d];
    }
    return (int)(at[1][0] * 1e6);
}
